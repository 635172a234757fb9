/* read_loops.h: loops that read memory and do nothing else, as fast as this CPU can.
 *
 * Which is the fastest differs from one CPU to the next, and with what its neighbours do, so there
 * is a table: 256- and 512-bit loads, one linear stream or several interleaved, prefetches of
 * several distances, into every cache or past them. */
#ifndef READ_LOOPS_H
#define READ_LOOPS_H
#include <stdint.h>

/* What a loop reads at a time; a multiple of the largest page. Prefetches reach up to 4 KB past it. */
#define READ_UNIT_BYTES (4 << 20)

typedef struct {
    uint64_t (*read)(const uint8_t *unit); /* the sum of a unit's 8-byte words; 64-byte aligned */
    const char *name;                      /* "512 bit x 2 streams, prefetch 1024 ahead" */
} read_loop;

extern const read_loop read_loops[];
extern const int32_t n_read_loops;
#endif

/* read_loops.c: see read_loops.h. Compile for the machine it runs on: vectors wider than its
 * registers are taken in parts. */
#include "read_loops.h"

#define LOADS 8 /* in an iteration, over all streams, each into a sum of its own */

typedef uint64_t vector256 __attribute__((vector_size(32)));
typedef uint64_t vector512 __attribute__((vector_size(64)));

/* streams: runs of the unit read side by side. ahead: bytes between a load and its prefetch, 0 for
 * none. locality: 3 for every cache, 0 past the outer ones. All three are constants. */
#define READER(vector)                                                                          \
    static inline __attribute__((always_inline)) uint64_t read_##vector(                        \
        const uint8_t *unit, const int streams, const int ahead, const int locality)            \
    {                                                                                           \
        const int64_t run = READ_UNIT_BYTES / streams;                                          \
        const int64_t step = LOADS / streams * (int64_t)sizeof(vector);                         \
        vector sum[LOADS] = {0};                                                                \
        for (int64_t at = 0; at < run; at += step) {                                            \
            _Pragma("GCC unroll 8")                                                             \
            for (int s = 0; s < streams; ++s) {                                                 \
                const uint8_t *from = unit + s * run + at;                                      \
                _Pragma("GCC unroll 8")                                                         \
                for (int64_t line = 0; ahead != 0 && line < step; line += 64) {                 \
                    if (locality == 0)                                                          \
                        __builtin_prefetch(from + ahead + line, 0, 0);                          \
                    else                                                                        \
                        __builtin_prefetch(from + ahead + line, 0, 3);                          \
                }                                                                               \
                _Pragma("GCC unroll 8")                                                         \
                for (int i = 0; i < LOADS / streams; ++i)                                       \
                    sum[s * (LOADS / streams) + i] += ((const vector *)from)[i];                \
            }                                                                                   \
        }                                                                                       \
        uint64_t total = 0;                                                                     \
        for (int i = 0; i < LOADS; ++i)                                                         \
            for (unsigned w = 0; w < sizeof(vector) / 8; ++w)                                   \
                total += sum[i][w];                                                             \
        return total;                                                                           \
    }
READER(vector256)
READER(vector512)

/* LOOP(bits, streams, ahead, locality, name) */
#define LOOPS                                                              \
    LOOP(256, 1, 0, 3, "256 bit, no prefetch")                             \
    LOOP(256, 1, 1024, 3, "256 bit, prefetch 1024 ahead")                  \
    LOOP(256, 1, 2048, 3, "256 bit, prefetch 2048 ahead")                  \
    LOOP(256, 1, 4096, 0, "256 bit, prefetch 4096 ahead past caches")      \
    LOOP(256, 2, 0, 3, "256 bit x 2 streams, no prefetch")                 \
    LOOP(256, 2, 1024, 0, "256 bit x 2 streams, prefetch 1024 ahead past caches") \
    LOOP(256, 2, 2048, 3, "256 bit x 2 streams, prefetch 2048 ahead")      \
    LOOP(256, 4, 0, 3, "256 bit x 4 streams, no prefetch")                 \
    LOOP(256, 4, 512, 3, "256 bit x 4 streams, prefetch 512 ahead")        \
    LOOP(512, 1, 0, 3, "512 bit, no prefetch")                             \
    LOOP(512, 1, 2048, 3, "512 bit, prefetch 2048 ahead")                  \
    LOOP(512, 1, 4096, 0, "512 bit, prefetch 4096 ahead past caches")      \
    LOOP(512, 2, 0, 3, "512 bit x 2 streams, no prefetch")                 \
    LOOP(512, 2, 1024, 0, "512 bit x 2 streams, prefetch 1024 ahead past caches") \
    LOOP(512, 4, 0, 3, "512 bit x 4 streams, no prefetch")                 \
    LOOP(512, 4, 1024, 3, "512 bit x 4 streams, prefetch 1024 ahead")

#define LOOP(bits, streams, ahead, locality, name)                                          \
    static uint64_t read_##bits##_##streams##_##ahead##_##locality(const uint8_t *unit)     \
    {                                                                                       \
        return read_vector##bits(unit, streams, ahead, locality);                           \
    }
LOOPS
#undef LOOP

#define LOOP(bits, streams, ahead, locality, name) {read_##bits##_##streams##_##ahead##_##locality, name},
const read_loop read_loops[] = {LOOPS};
#undef LOOP
const int32_t n_read_loops = (int32_t)(sizeof read_loops / sizeof *read_loops);

/* packed_q4_1.h: [k/32] packed_q4_1. */
#ifndef PACKED_Q4_1_H
#define PACKED_Q4_1_H
#include "packed.h"

/* q[c]: low nibbles chunk c (k = 4c .. +3), high nibbles chunk c+4. */
typedef struct {
    uint16_t d[16], m[16];
    uint8_t q[4][64];
} packed_q4_1;
_Static_assert(sizeof(packed_q4_1) == 16 * 20, "a q4_1 panel block is the size of 16 GGUF blocks");

static inline const packed_q4_1 *block_q4_1(const uint8_t *panel, int64_t b) { return (const packed_q4_1 *)panel + b; }
static inline int64_t panel_bytes_q4_1(int64_t k) { return k / 32 * (int64_t)sizeof(packed_q4_1); }
#endif

/* packed_q5_0.h: pairs of packed_q5_0. */
#ifndef PACKED_Q5_0_H
#define PACKED_Q5_0_H
#include "packed.h"

/* high: bit c is bit 4 of chunk c; q[c]: low nibbles chunk c (k = 4c .. +3), high nibbles chunk c+4. */
typedef struct {
    uint8_t high[64];
    uint8_t q[4][64];
} packed_q5_0;
_Static_assert(sizeof(packed_q5_0) == 16 * 20, "a q5_0 panel block is 16 GGUF blocks without d");

PAIRED(q5_0)
static inline int64_t panel_bytes_q5_0(int64_t k) { return paired_bytes(k / 32, sizeof(packed_q5_0)); }
#endif

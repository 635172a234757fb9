/* packed_q4_0.h: pairs of packed_q4_0. */
#ifndef PACKED_Q4_0_H
#define PACKED_Q4_0_H
#include "packed.h"

/* q[c]: low nibbles chunk c (k = 4c .. +3), high nibbles chunk c+4. */
typedef struct {
    uint8_t q[4][64];
} packed_q4_0;
_Static_assert(sizeof(packed_q4_0) == 16 * 16, "a q4_0 panel block is 16 GGUF blocks without d");

PAIRED(q4_0)
static inline int64_t panel_bytes_q4_0(int64_t k) { return paired_bytes(k / 32, sizeof(packed_q4_0)); }
#endif

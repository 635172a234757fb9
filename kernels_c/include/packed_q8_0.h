/* packed_q8_0.h: pairs of packed_q8_0. */
#ifndef PACKED_Q8_0_H
#define PACKED_Q8_0_H
#include "packed.h"

typedef struct {
    int8_t q[8][64];
} packed_q8_0;
_Static_assert(sizeof(packed_q8_0) == 16 * 32, "a q8_0 panel block is 16 GGUF blocks without d");

PAIRED(q8_0)
static inline int64_t panel_bytes_q8_0(int64_t k) { return paired_bytes(k / 32, sizeof(packed_q8_0)); }
#endif

/* packed_q2_k.h: [k/256] packed_q2_k. */
#ifndef PACKED_Q2_K_H
#define PACKED_Q2_K_H
#include "packed.h"

/* Group g of 16 k: scales[g] holds scale | min << 4 a row; q[g] its chunk i in bits 2i, 2i+1. */
typedef struct {
    uint16_t d[16], dmin[16];
    uint8_t scales[16][16];
    uint8_t q[16][64];
} packed_q2_k;
_Static_assert(sizeof(packed_q2_k) == 16 * 84, "a q2_k panel block is the size of 16 GGUF blocks");

static inline int64_t panel_bytes_q2_k(int64_t k) { return k / 256 * (int64_t)sizeof(packed_q2_k); }
#endif

/* packed_q5_k.h: [k/256] packed_q5_k. */
#ifndef PACKED_Q5_K_H
#define PACKED_Q5_K_H
#include "packed.h"

/* Sub-block j of 32 k is chunks 8j .. 8j+7. Of its chunks 2i, 2i+1 the low four bits are the low and the
 * high nibbles of ql[j][i]; the fifth bit of its chunk c is bit c of qh[j]. */
typedef struct {
    uint16_t d[16], dmin[16];
    uint8_t low[8][16], high[4][16];   /* scales and minima, as in packed_q4_k.h */
    uint8_t ql[8][4][64], qh[8][64];
} packed_q5_k;
_Static_assert(sizeof(packed_q5_k) == 16 * 176, "a q5_k panel block is the size of 16 GGUF blocks");

static inline int64_t panel_bytes_q5_k(int64_t k) { return k / 256 * (int64_t)sizeof(packed_q5_k); }
#endif

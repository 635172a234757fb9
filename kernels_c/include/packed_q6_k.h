/* packed_q6_k.h: pairs of packed_q6_k. */
#ifndef PACKED_Q6_K_H
#define PACKED_Q6_K_H
#include "packed.h"

/* Group g of 16 k (g = 0..15, four a quarter) has chunks 4g .. 4g+3:
 * ql[0] low nibbles chunk 0, high nibbles chunk 1; ql[1] chunks 2, 3;
 * qh bits 0-1, 2-3, 4-5, 6-7: the top two bits of chunks 0..3. */
typedef struct {
    uint8_t ql[2][64], qh[64];
} packed_q6_k_group;
typedef struct {
    struct {
        int8_t scales[4][16];      /* [group][row] */
        packed_q6_k_group group[4];
    } quarter[4];
} packed_q6_k;
_Static_assert(sizeof(packed_q6_k) == 16 * 208, "a q6_k panel block is 16 GGUF blocks without d");

PAIRED(q6_k)
static inline int64_t panel_bytes_q6_k(int64_t k) { return paired_bytes(k / 256, sizeof(packed_q6_k)); }
#endif

/* packed_q3_k.h: pairs of packed_q3_k. */
#ifndef PACKED_Q3_K_H
#define PACKED_Q3_K_H
#include "packed.h"

/* Scales are GGUF's twelve bytes a row: of group g the low four bits in the low (g < 8) or high nibble of
 * scales[g % 8], the top two in bits 2 (g / 4) of scales[8 + g % 4]. q[g] holds the low two bits of chunk i of
 * group g in bits 2i, 2i+1; bit c of high[j] is the top bit of chunk 8j + c. */
typedef struct {
    uint8_t scales[12][16];
    uint8_t q[16][64], high[8][64];
} packed_q3_k;
_Static_assert(sizeof(packed_q3_k) == 16 * 108, "a q3_k panel block is 16 GGUF blocks without d");

PAIRED(q3_k)
static inline int64_t panel_bytes_q3_k(int64_t k) { return paired_bytes(k / 256, sizeof(packed_q3_k)); }
#endif

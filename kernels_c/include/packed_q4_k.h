/* packed_q4_k.h: [k/256] packed_q4_k. */
#ifndef PACKED_Q4_K_H
#define PACKED_Q4_K_H
#include "packed.h"

/* Bytes of nibbles: chunk 8p+c (p = 0..3, c = 0..7) holds in its low nibbles
 * k = 64p + 4c .. +3 (sub-block 2p), in its high nibbles k = 64p + 32 + 4c .. +3
 * (sub-block 2p+1). */
typedef struct {
    uint16_t d[16], dmin[16];
    uint8_t low[8][16];    /* sub-block j: scale & 15 | (min & 15) << 4 */
    uint8_t high[4][16];   /* j = 0..3: scale[j] >> 4 | (scale[j+4] >> 4) << 2 | (min[j] >> 4) << 4 | (min[j+4] >> 4) << 6 */
    uint8_t q[32][64];
} packed_q4_k;
_Static_assert(sizeof(packed_q4_k) == 16 * 144, "a q4_k panel block is the size of 16 GGUF blocks");

static inline int64_t panel_bytes_q4_k(int64_t k) { return k / 256 * (int64_t)sizeof(packed_q4_k); }
#endif

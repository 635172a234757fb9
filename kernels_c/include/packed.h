/* packed.h: the packed panels of 16 rows.
 *
 * A chunk is 64 bytes: 4 consecutive k of 16 rows, byte [row * 4 + k % 4]. Rows
 * are lanes, so a row's sum never crosses lanes. Rows that a tensor lacks are
 * zero, scales included. All panels are multiples of 64 bytes and 64-byte
 * aligned. fp16 values are stored as their bits.
 *
 *   f32, f16, bf16   [k][16] elements, padded to 64 bytes at the end
 *   q4_k             [k/256] packed_q4_k
 *   q6_k             pairs of packed_q6_k
 *   q8_0             pairs of packed_q8_0
 *   q5_0             pairs of packed_q5_0
 *
 * A pair is the scales of two blocks, [2][16] fp16, and then the blocks; the last
 * pair may lack its second block. So codes stay aligned, a panel is the size of the
 * GGUF blocks it came from, and a kernel reads it front to back without a second
 * stream: hardware prefetchers follow one line well and several badly. */
#ifndef PACKED_H
#define PACKED_H
#include <stdint.h>

#define PANEL_ROWS 16

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

typedef struct {
    int8_t q[8][64];
} packed_q8_0;
_Static_assert(sizeof(packed_q8_0) == 16 * 32, "a q8_0 panel block is 16 GGUF blocks without d");

/* high: bit c is bit 4 of chunk c; q[c]: low nibbles chunk c (k = 4c .. +3), high nibbles chunk c+4. */
typedef struct {
    uint8_t high[64];
    uint8_t q[4][64];
} packed_q5_0;
_Static_assert(sizeof(packed_q5_0) == 16 * 20, "a q5_0 panel block is 16 GGUF blocks without d");

/* Bytes of `blocks` blocks of `size` bytes in pairs; block b and its scales [16] among them. */
static inline int64_t paired_bytes(int64_t blocks, int64_t size) { return (blocks + 1) / 2 * 64 + blocks * size; }
static inline const uint8_t *paired_block(const uint8_t *panel, int64_t b, int64_t size)
{
    return panel + b / 2 * (64 + 2 * size) + 64 + b % 2 * size;
}
static inline const uint16_t *paired_scales(const uint8_t *panel, int64_t b, int64_t size)
{
    return (const uint16_t *)(panel + b / 2 * (64 + 2 * size) + b % 2 * 32);
}
#define PAIRED(format)                                                                                        \
    static inline const packed_##format *block_##format(const uint8_t *panel, int64_t b)                      \
    {                                                                                                         \
        return (const packed_##format *)paired_block(panel, b, sizeof(packed_##format));                      \
    }                                                                                                         \
    static inline const uint16_t *scales_##format(const uint8_t *panel, int64_t b)                            \
    {                                                                                                         \
        return paired_scales(panel, b, sizeof(packed_##format));                                              \
    }
PAIRED(q6_k)
PAIRED(q8_0)
PAIRED(q5_0)

static inline int64_t panel_bytes_f32(int64_t k) { return k * 64; }
static inline int64_t panel_bytes_f16(int64_t k) { return (k * 32 + 63) / 64 * 64; }
static inline int64_t panel_bytes_bf16(int64_t k) { return (k * 32 + 63) / 64 * 64; }
static inline int64_t panel_bytes_q4_k(int64_t k) { return k / 256 * (int64_t)sizeof(packed_q4_k); }
static inline int64_t panel_bytes_q6_k(int64_t k) { return paired_bytes(k / 256, sizeof(packed_q6_k)); }
static inline int64_t panel_bytes_q8_0(int64_t k) { return paired_bytes(k / 32, sizeof(packed_q8_0)); }
static inline int64_t panel_bytes_q5_0(int64_t k) { return paired_bytes(k / 32, sizeof(packed_q5_0)); }
#endif

/* pack.h: packers, 16 rows of GGUF blocks into one panel (include/packed.h).
 *
 * void pack_<format>(rows16, row_bytes, k, panel): rows16: 16 rows, row_bytes apart, k elements
 * each; panel: panel_bytes_<format>(k) bytes, all written. A row that the tensor lacks is handed in
 * as zeros. The codes are kept bit for bit. Built as a library of its own; not part of a bundle. */
#ifndef PACK_H
#define PACK_H
#include <stdint.h>
#include <string.h>
#include "packed.h"

/* Of a last pair with one block the other's scales are zero. */
static inline void clear_last_scales(uint8_t *panel, int64_t blocks, int64_t size)
{
    if (blocks % 2)
        memset(panel + paired_bytes(blocks - 1, size), 0, 64);
}

/* 16-bit elements, [k][16], zeros up to a multiple of 64 bytes. */
static inline void pack_16_bits(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel, int64_t bytes)
{
    for (int64_t i = 0; i < k; ++i)
        for (int64_t row = 0; row < 16; ++row)
            memcpy(panel + (i * 16 + row) * 2, rows16 + row * row_bytes + i * 2, 2);
    memset(panel + k * 32, 0, (size_t)(bytes - k * 32));
}

/* A row's twelve bytes of scales and minima of six bits into low and high of packed_q4_k.h. Bytes j and
 * j+4 hold the low six bits of sub-block j's scale and min and, on top, the high two of sub-block j+4's,
 * whose low four share byte j+8. */
static inline void pack_scales_of_6(const uint8_t *s, int64_t row, uint8_t (*low)[16], uint8_t (*high)[16])
{
    for (int32_t j = 0; j < 4; ++j) {
        low[j][row] = (uint8_t)((s[j] & 15) | (s[j + 4] & 15) << 4);
        low[j + 4][row] = s[j + 8];
        high[j][row] = (uint8_t)((s[j] >> 4 & 3) | (s[j] >> 6) << 2 | (s[j + 4] >> 4 & 3) << 4 | (s[j + 4] >> 6) << 6);
    }
}

/* Group g of a row's codes of two bits (64 bytes, a half of 128 codes in 32, code 32 i + l in bits 2i of byte
 * l): bits 2i of its chunk, for the group's chunk i. */
static inline void pack_two_bits(const uint8_t *codes, int32_t g, int64_t row, uint8_t *chunk)
{
    for (int32_t e = 0; e < 4; ++e) {
        uint8_t byte = 0;
        for (int32_t i = 0; i < 4; ++i) {
            int32_t k = g * 16 + i * 4 + e;
            byte |= (uint8_t)((codes[k / 128 * 32 + k % 32] >> 2 * (k % 128 / 32) & 3) << 2 * i);
        }
        chunk[row * 4 + e] = byte;
    }
}
#endif

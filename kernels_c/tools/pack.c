/* pack.c: 16 rows of GGUF blocks into one panel (include/packed.h).
 *
 * rows16: 16 rows, row_bytes apart, k elements each; panel: panel_bytes_<format>(k)
 * bytes, all written. A row that the tensor lacks is handed in as zeros. The codes
 * are kept bit for bit. Built as a library of its own; not part of a bundle. */
#include <stdint.h>
#include <string.h>
#include "packed.h"

/* cdef-begin */
int64_t panel_size_f32(int64_t k);
int64_t panel_size_f16(int64_t k);
int64_t panel_size_bf16(int64_t k);
int64_t panel_size_q4_k(int64_t k);
int64_t panel_size_q6_k(int64_t k);
int64_t panel_size_q8_0(int64_t k);
int64_t panel_size_q5_0(int64_t k);
void pack_f32(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
void pack_f16(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
void pack_bf16(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
void pack_q4_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
void pack_q6_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
void pack_q8_0(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
void pack_q5_0(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);
/* cdef-end */

int64_t panel_size_f32(int64_t k) { return panel_bytes_f32(k); }
int64_t panel_size_f16(int64_t k) { return panel_bytes_f16(k); }
int64_t panel_size_bf16(int64_t k) { return panel_bytes_bf16(k); }
int64_t panel_size_q4_k(int64_t k) { return panel_bytes_q4_k(k); }
int64_t panel_size_q6_k(int64_t k) { return panel_bytes_q6_k(k); }
int64_t panel_size_q8_0(int64_t k) { return panel_bytes_q8_0(k); }
int64_t panel_size_q5_0(int64_t k) { return panel_bytes_q5_0(k); }

void pack_f32(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    for (int64_t i = 0; i < k; ++i)
        for (int64_t row = 0; row < 16; ++row)
            memcpy(panel + (i * 16 + row) * 4, rows16 + row * row_bytes + i * 4, 4);
}

void pack_f16(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    for (int64_t i = 0; i < k; ++i)
        for (int64_t row = 0; row < 16; ++row)
            memcpy(panel + (i * 16 + row) * 2, rows16 + row * row_bytes + i * 2, 2);
    memset(panel + k * 32, 0, (size_t)(panel_bytes_f16(k) - k * 32));
}

void pack_bf16(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    pack_f16(rows16, row_bytes, k, panel);
}

void pack_q4_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    packed_q4_k *out = (packed_q4_k *)panel;
    for (int64_t b = 0; b < k / 256; ++b)
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 144, *s = in + 4, *q = in + 16;
            memcpy(&out[b].d[row], in, 2);
            memcpy(&out[b].dmin[row], in + 2, 2);
            for (int32_t j = 0; j < 4; ++j) {
                /* Bytes j and j+4 hold the low six bits of sub-block j's scale and min and, on top,
                 * the high two of sub-block j+4's, whose low four share byte j+8. */
                out[b].low[j][row] = (uint8_t)((s[j] & 15) | (s[j + 4] & 15) << 4);
                out[b].low[j + 4][row] = s[j + 8];
                out[b].high[j][row] = (uint8_t)((s[j] >> 4 & 3) | (s[j] >> 6) << 2
                                                | (s[j + 4] >> 4 & 3) << 4 | (s[j + 4] >> 6) << 6);
            }
            for (int32_t chunk = 0; chunk < 32; ++chunk)
                memcpy(&out[b].q[chunk][row * 4], q + chunk * 4, 4);
        }
}

/* Of a last pair with one block the other's scales are zero. */
static void clear_last_scales(uint8_t *panel, int64_t blocks, int64_t size)
{
    if (blocks % 2)
        memset(panel + paired_bytes(blocks - 1, size), 0, 64);
}

void pack_q6_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    int64_t blocks = k / 256;
    clear_last_scales(panel, blocks, sizeof(packed_q6_k));
    for (int64_t b = 0; b < blocks; ++b) {
        packed_q6_k *out = (packed_q6_k *)block_q6_k(panel, b);
        uint16_t *d = (uint16_t *)scales_q6_k(panel, b);
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 210;
            uint8_t code[256];
            for (int32_t half = 0; half < 2; ++half) {
                const uint8_t *ql = in + half * 64, *qh = in + 128 + half * 32;
                uint8_t *c = code + half * 128;
                for (int32_t l = 0; l < 32; ++l) {
                    c[l] = (uint8_t)((ql[l] & 15) | (qh[l] & 3) << 4);
                    c[l + 32] = (uint8_t)((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4);
                    c[l + 64] = (uint8_t)(ql[l] >> 4 | (qh[l] >> 4 & 3) << 4);
                    c[l + 96] = (uint8_t)(ql[l + 32] >> 4 | qh[l] >> 6 << 4);
                }
            }
            for (int32_t g = 0; g < 16; ++g) {
                packed_q6_k_group *group = &out->quarter[g / 4].group[g % 4];
                out->quarter[g / 4].scales[g % 4][row] = (int8_t)in[192 + g];
                for (int32_t i = 0; i < 4; ++i) {
                    const uint8_t *c = code + g * 16 + i;
                    int64_t at = row * 4 + i;
                    group->ql[0][at] = (uint8_t)((c[0] & 15) | (c[4] & 15) << 4);
                    group->ql[1][at] = (uint8_t)((c[8] & 15) | (c[12] & 15) << 4);
                    group->qh[at] = (uint8_t)(c[0] >> 4 | c[4] >> 4 << 2 | c[8] >> 4 << 4 | c[12] >> 4 << 6);
                }
            }
            memcpy(&d[row], in + 208, 2);
        }
    }
}

void pack_q8_0(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    int64_t blocks = k / 32;
    clear_last_scales(panel, blocks, sizeof(packed_q8_0));
    for (int64_t b = 0; b < blocks; ++b) {
        packed_q8_0 *out = (packed_q8_0 *)block_q8_0(panel, b);
        uint16_t *d = (uint16_t *)scales_q8_0(panel, b);
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 34;
            memcpy(&d[row], in, 2);
            for (int32_t chunk = 0; chunk < 8; ++chunk)
                memcpy(&out->q[chunk][row * 4], in + 2 + chunk * 4, 4);
        }
    }
}

void pack_q5_0(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    int64_t blocks = k / 32;
    clear_last_scales(panel, blocks, sizeof(packed_q5_0));
    for (int64_t b = 0; b < blocks; ++b) {
        packed_q5_0 *out = (packed_q5_0 *)block_q5_0(panel, b);
        uint16_t *d = (uint16_t *)scales_q5_0(panel, b);
        for (int64_t row = 0; row < 16; ++row) {
            /* fp16 d, 32 high bits (bit i: element i), 16 bytes of nibbles (elements i and i + 16). */
            const uint8_t *in = rows16 + row * row_bytes + b * 22;
            memcpy(&d[row], in, 2);
            for (int32_t i = 0; i < 4; ++i) {
                uint8_t high = 0;
                for (int32_t chunk = 0; chunk < 8; ++chunk) {
                    int32_t element = chunk * 4 + i;
                    high = (uint8_t)(high | (in[2 + element / 8] >> element % 8 & 1) << chunk);
                }
                out->high[row * 4 + i] = high;
            }
            for (int32_t chunk = 0; chunk < 4; ++chunk)
                memcpy(&out->q[chunk][row * 4], in + 6 + chunk * 4, 4);
        }
    }
}

/* pack_q6_k.c: q6_k rows into a panel (packed_q6_k.h). */
#include "pack.h"
#include "packed_q6_k.h"

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

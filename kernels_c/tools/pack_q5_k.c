/* pack_q5_k.c: q5_k rows into a panel (packed_q5_k.h). */
#include "pack.h"
#include "packed_q5_k.h"

void pack_q5_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    packed_q5_k *out = (packed_q5_k *)panel;
    for (int64_t b = 0; b < k / 256; ++b)
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 176, *qh = in + 16, *q = in + 48;
            memcpy(&out[b].d[row], in, 2);
            memcpy(&out[b].dmin[row], in + 2, 2);
            pack_scales_of_6(in + 4, row, out[b].low, out[b].high);
            for (int32_t j = 0; j < 8; ++j)
                for (int32_t e = 0; e < 4; ++e) {
                    uint8_t top = 0;
                    for (int32_t c = 0; c < 8; ++c) {
                        uint8_t nibble = q[32 * (j / 2) + 4 * c + e] >> 4 * (j % 2) & 15;
                        uint8_t *low = &out[b].ql[j][c / 2][row * 4 + e];
                        *low = (uint8_t)(c % 2 ? *low | nibble << 4 : nibble);
                        top |= (uint8_t)((qh[4 * c + e] >> j & 1) << c);
                    }
                    out[b].qh[j][row * 4 + e] = top;
                }
        }
}

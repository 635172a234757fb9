/* pack_q3_k.c: q3_k rows into a panel (packed_q3_k.h). */
#include "pack.h"
#include "packed_q3_k.h"

void pack_q3_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    int64_t blocks = k / 256;
    clear_last_scales(panel, blocks, sizeof(packed_q3_k));
    for (int64_t b = 0; b < blocks; ++b) {
        packed_q3_k *out = (packed_q3_k *)block_q3_k(panel, b);
        uint16_t *d = (uint16_t *)scales_q3_k(panel, b);
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 110;
            for (int32_t i = 0; i < 12; ++i)
                out->scales[i][row] = in[96 + i];
            for (int32_t g = 0; g < 16; ++g)
                pack_two_bits(in + 32, g, row, out->q[g]);
            for (int32_t j = 0; j < 8; ++j)
                for (int32_t e = 0; e < 4; ++e) {
                    uint8_t top = 0;
                    for (int32_t c = 0; c < 8; ++c)
                        top |= (uint8_t)((in[4 * c + e] >> j & 1) << c);
                    out->high[j][row * 4 + e] = top;
                }
            memcpy(&d[row], in + 108, 2);
        }
    }
}

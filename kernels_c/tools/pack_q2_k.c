/* pack_q2_k.c: q2_k rows into a panel (packed_q2_k.h). */
#include "pack.h"
#include "packed_q2_k.h"

void pack_q2_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    packed_q2_k *out = (packed_q2_k *)panel;
    for (int64_t b = 0; b < k / 256; ++b)
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 84;
            memcpy(&out[b].d[row], in + 80, 2);
            memcpy(&out[b].dmin[row], in + 82, 2);
            for (int32_t g = 0; g < 16; ++g) {
                out[b].scales[g][row] = in[g];
                pack_two_bits(in + 16, g, row, out[b].q[g]);
            }
        }
}

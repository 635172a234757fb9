/* pack_q4_k.c: q4_k rows into a panel (packed_q4_k.h). */
#include "pack.h"
#include "packed_q4_k.h"

void pack_q4_k(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    packed_q4_k *out = (packed_q4_k *)panel;
    for (int64_t b = 0; b < k / 256; ++b)
        for (int64_t row = 0; row < 16; ++row) {
            const uint8_t *in = rows16 + row * row_bytes + b * 144, *s = in + 4, *q = in + 16;
            memcpy(&out[b].d[row], in, 2);
            memcpy(&out[b].dmin[row], in + 2, 2);
            pack_scales_of_6(s, row, out[b].low, out[b].high);
            for (int32_t chunk = 0; chunk < 32; ++chunk)
                memcpy(&out[b].q[chunk][row * 4], q + chunk * 4, 4);
        }
}

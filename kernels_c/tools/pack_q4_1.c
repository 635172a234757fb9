/* pack_q4_1.c: q4_1 rows into a panel (packed_q4_1.h). */
#include "pack.h"
#include "packed_q4_1.h"

void pack_q4_1(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    packed_q4_1 *out = (packed_q4_1 *)panel;
    for (int64_t b = 0; b < k / 32; ++b, ++out)
        for (int64_t row = 0; row < 16; ++row) {
            /* fp16 d, fp16 m, 16 bytes of nibbles (elements i and i + 16). */
            const uint8_t *in = rows16 + row * row_bytes + b * 20;
            memcpy(&out->d[row], in, 2);
            memcpy(&out->m[row], in + 2, 2);
            for (int32_t chunk = 0; chunk < 4; ++chunk)
                memcpy(&out->q[chunk][row * 4], in + 4 + chunk * 4, 4);
        }
}

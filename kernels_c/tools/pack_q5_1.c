/* pack_q5_1.c: q5_1 rows into a panel (packed_q5_1.h). */
#include "pack.h"
#include "packed_q5_1.h"

void pack_q5_1(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    packed_q5_1 *out = (packed_q5_1 *)panel;
    for (int64_t b = 0; b < k / 32; ++b, ++out)
        for (int64_t row = 0; row < 16; ++row) {
            /* fp16 d, fp16 m, 32 high bits (bit i: element i), 16 bytes of nibbles (elements i and i + 16). */
            const uint8_t *in = rows16 + row * row_bytes + b * 24;
            memcpy(&out->d[row], in, 2);
            memcpy(&out->m[row], in + 2, 2);
            for (int32_t i = 0; i < 4; ++i) {
                uint8_t high = 0;
                for (int32_t chunk = 0; chunk < 8; ++chunk) {
                    int32_t element = chunk * 4 + i;
                    high = (uint8_t)(high | (in[4 + element / 8] >> element % 8 & 1) << chunk);
                }
                out->high[row * 4 + i] = high;
            }
            for (int32_t chunk = 0; chunk < 4; ++chunk)
                memcpy(&out->q[chunk][row * 4], in + 8 + chunk * 4, 4);
        }
}

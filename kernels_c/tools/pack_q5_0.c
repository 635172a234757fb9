/* pack_q5_0.c: q5_0 rows into a panel (packed_q5_0.h). */
#include "pack.h"
#include "packed_q5_0.h"

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

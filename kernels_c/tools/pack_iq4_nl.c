/* pack_iq4_nl.c: iq4_nl rows into a panel (packed_iq4_nl.h). */
#include "pack.h"
#include "packed_iq4_nl.h"

void pack_iq4_nl(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    int64_t blocks = k / 32;
    clear_last_scales(panel, blocks, sizeof(packed_iq4_nl));
    for (int64_t b = 0; b < blocks; ++b) {
        packed_iq4_nl *out = (packed_iq4_nl *)block_iq4_nl(panel, b);
        uint16_t *d = (uint16_t *)scales_iq4_nl(panel, b);
        for (int64_t row = 0; row < 16; ++row) {
            /* fp16 d, 16 bytes of nibbles (elements i and i + 16). */
            const uint8_t *in = rows16 + row * row_bytes + b * 18;
            memcpy(&d[row], in, 2);
            for (int32_t chunk = 0; chunk < 4; ++chunk)
                memcpy(&out->q[chunk][row * 4], in + 2 + chunk * 4, 4);
        }
    }
}

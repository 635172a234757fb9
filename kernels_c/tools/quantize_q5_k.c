/* quantize_q5_k.c: 256 weights as fp16 d, fp16 dmin, 12 bytes of scales, 32 bytes of fifth bits, 128
 * bytes of nibbles; eight sub-blocks of 32: w = (d * sc) * q - (dmin * m), sc and m in 0..63, q in 0..31
 * (affine.h). */
#define SUB 32
#define SETS 1
#define TOP 31
#define MOST 63
#define SPREADS 8
#define SPREAD_FIRST 29.5f
#define SPREAD_STEP 0.4f
#define SHIFTS 3
#define SHIFT_STEP 0.01f
#include "quantize.h"
#include "affine.h"
#include "scales_of_6.h"

#define BLOCK 256
#define BYTES 176

static int32_t encode(const float *x, const float *importance, uint8_t *out)
{
    block_fit fit;
    int32_t wrong = affine_fit(x, importance, &fit);
    if (wrong)
        return wrong;
    uint16_t bits[2] = {half_bits(fit.d), half_bits(fit.dmin)};
    memcpy(out, bits, 4);
    pack_scales_of_6(fit.set[0].sc, fit.set[0].m, out + 4);
    lanes inverse = reciprocal(splat(fit.d) * fit.set[0].sc), offset = (splat(fit.dmin) * fit.set[0].m) * inverse;
    memset(out + 16, 0, BYTES - 16);
    for (int j = 0; j < 8; j++) {
        float codes[SUB];
        round_codes(x + j * SUB, SUB, inverse[j], offset[j], 0.0f, TOP, codes);
        for (int i = 0; i < SUB; i++) {
            int32_t q = (int32_t)codes[i];
            out[16 + i] |= (uint8_t)((q >> 4) << j);
            out[48 + SUB * (j / 2) + i] |= (uint8_t)((q & 15) << 4 * (j & 1));
        }
    }
    return QUANTIZE_OK;
}

int32_t quantize_q5_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    if (k % BLOCK)
        return QUANTIZE_E_SHAPE;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < k; c += BLOCK, x += BLOCK, out += BYTES) {
            int32_t wrong = encode(x, importance ? importance + c : 0, out);
            if (wrong)
                return wrong;
        }
    return QUANTIZE_OK;
}

void dequantize_q5_k(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES) {
        uint16_t bits[2];
        memcpy(bits, in, 4);
        float d = half_value(bits[0]), dmin = half_value(bits[1]);
        const uint8_t *s = in + 4, *high = in + 16, *nibbles = in + 48;
        for (int j = 0; j < 8; j++, out += SUB) {
            float scale = d * (float)scale_of_6(s, j), minimum = dmin * (float)min_of_6(s, j);
            for (int i = 0; i < SUB; i++)
                out[i] = scale * (float)((nibbles[SUB * (j / 2) + i] >> 4 * (j & 1) & 15) + ((high[i] >> j & 1) << 4)) - minimum;
        }
    }
}

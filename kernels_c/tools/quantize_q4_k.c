/* quantize_q4_k.c: 256 weights as fp16 d, fp16 dmin, 12 bytes of scales, 128 bytes of nibbles;
 * eight sub-blocks of 32: w = (d * sc) * q - (dmin * m), sc and m in 0..63, q in 0..15 (affine.h). */
#define SUB 32
#define SETS 1
#define TOP 15
#define MOST 63
#define SPREADS 8
#define SPREAD_FIRST 14.0f
#define SPREAD_STEP 0.3f
#define SHIFTS 3
#define SHIFT_STEP 0.02f
#include "quantize.h"
#include "affine.h"
#include "scales_of_6.h"

#define BLOCK 256
#define BYTES 144

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
    for (int j = 0; j < 4; j++) {
        float low[SUB], high[SUB];
        round_codes(x + 2 * j * SUB, SUB, inverse[2 * j], offset[2 * j], 0.0f, TOP, low);
        round_codes(x + (2 * j + 1) * SUB, SUB, inverse[2 * j + 1], offset[2 * j + 1], 0.0f, TOP, high);
        for (int i = 0; i < SUB; i++)
            out[16 + SUB * j + i] = (uint8_t)((int32_t)low[i] | (int32_t)high[i] << 4);
    }
    return QUANTIZE_OK;
}

int32_t quantize_q4_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
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

void dequantize_q4_k(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES) {
        uint16_t bits[2];
        memcpy(bits, in, 4);
        float d = half_value(bits[0]), dmin = half_value(bits[1]);
        const uint8_t *s = in + 4, *nibbles = in + 16;
        for (int j = 0; j < 8; j++, out += SUB) {
            float scale = d * (float)scale_of_6(s, j), minimum = dmin * (float)min_of_6(s, j);
            for (int i = 0; i < SUB; i++)
                out[i] = scale * (float)(nibbles[SUB * (j / 2) + i] >> 4 * (j & 1) & 15) - minimum;
        }
    }
}

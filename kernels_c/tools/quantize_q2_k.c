/* quantize_q2_k.c: 256 weights as 16 bytes of scales, 64 bytes of codes, fp16 d, fp16 dmin; sixteen sub-blocks
 * of 16: w = (d * sc) * q - (dmin * m), sc and m in 0..15, q in 0..3 (affine.h). */
#define SUB 16
#define SETS 2
#define TOP 3
#define MOST 15
#define SPREADS 14
#define SPREAD_FIRST 2.2f
#define SPREAD_STEP 0.15f
#define SHIFTS 6
#define SHIFT_STEP 0.04f
#include "quantize.h"
#include "affine.h"

#define BLOCK 256
#define BYTES 84

static int32_t encode(const float *x, const float *importance, uint8_t *out)
{
    block_fit fit;
    int32_t wrong = affine_fit(x, importance, &fit);
    if (wrong)
        return wrong;
    memset(out, 0, BYTES);
    for (int j = 0; j < 16; j++) {
        const sub_fit *set = &fit.set[j / LANES];
        float sc = set->sc[j % LANES], m = set->m[j % LANES], codes[SUB];
        float real = fit.d * sc, inverse = real == 0.0f ? 0.0f : 1.0f / real;
        round_codes(x + j * SUB, SUB, inverse, (fit.dmin * m) * inverse, 0.0f, TOP, codes);
        out[j] = (uint8_t)((int32_t)sc | (int32_t)m << 4);
        for (int i = 0; i < SUB; i++) {
            int at = j * SUB + i;
            out[16 + at / 128 * 32 + at % 32] |= (uint8_t)((int32_t)codes[i] << 2 * (at % 128 / 32));
        }
    }
    uint16_t bits[2] = {half_bits(fit.d), half_bits(fit.dmin)};
    memcpy(out + 80, bits, 4);
    return QUANTIZE_OK;
}

int32_t quantize_q2_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
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

void dequantize_q2_k(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES) {
        uint16_t bits[2];
        memcpy(bits, in + 80, 4);
        float d = half_value(bits[0]), dmin = half_value(bits[1]);
        for (int j = 0; j < 16; j++, out += SUB) {
            float scale = d * (float)(in[j] & 15), minimum = dmin * (float)(in[j] >> 4);
            for (int i = 0; i < SUB; i++) {
                int at = j * SUB + i;
                out[i] = scale * (float)(in[16 + at / 128 * 32 + at % 32] >> 2 * (at % 128 / 32) & 3) - minimum;
            }
        }
    }
}

/* quantize_q8_0.c: 32 weights as fp16 d, int8 codes[32]; w = d * q, |q| <= 127.
 *
 * Tries RATIOS of the block's largest magnitude as d, each as a half holds it, and keeps the one
 * whose rounded codes leave the smallest error. */
#include "quantize.h"
#include "symmetric.h"

#define BLOCK 32
#define BYTES 34
#define CANDIDATES 8
#define LIMIT (127.0f * HALF_MAX)

static const float RATIOS[CANDIDATES] = {
    1.000f / 127.5f, 1.004f / 127.5f, 1.008f / 127.5f, 1.012f / 127.5f,
    1.016f / 127.5f, 1.020f / 127.5f, 1.024f / 127.5f, 1.028f / 127.5f};

int32_t quantize_q8_0(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    static const float zeros[BLOCK];
    if (k % BLOCK)
        return QUANTIZE_E_SHAPE;
    int64_t row_blocks = k / BLOCK, blocks = rows * row_blocks;
    for (int64_t b = 0; b < blocks; b += LANES) {
        const float *from[LANES], *weights[LANES];
        int count = blocks - b < LANES ? (int)(blocks - b) : LANES;
        for (int l = 0; l < LANES; l++) {
            from[l] = l < count ? x + (b + l) * BLOCK : zeros;
            weights[l] = importance && l < count ? importance + (b + l) % row_blocks * BLOCK : ONES;
        }
        lanes xs[BLOCK], ws[BLOCK];
        load_lanes(from, BLOCK, xs);
        load_lanes(weights, BLOCK, ws);
        int32_t wrong = check_bits(largest_bits(xs, BLOCK), LIMIT);
        if (wrong)
            return wrong;
        lanes d = magnitude(best_half_scale(xs, ws, BLOCK, RATIOS, CANDIDATES, -127.0f, 127.0f));
        lanes inverse = reciprocal(d);
        for (int l = 0; l < count; l++, out += BYTES) {
            float codes[BLOCK];
            uint16_t bits = half_bits(d[l]);
            memcpy(out, &bits, 2);
            round_codes(from[l], BLOCK, inverse[l], 0.0f, -127.0f, 127.0f, codes);
            for (int i = 0; i < BLOCK; i++)
                out[2 + i] = (uint8_t)(int8_t)codes[i];
        }
    }
    return QUANTIZE_OK;
}

void dequantize_q8_0(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES, out += BLOCK) {
        uint16_t bits;
        memcpy(&bits, in, 2);
        float d = half_value(bits);
        for (int i = 0; i < BLOCK; i++)
            out[i] = (float)(int8_t)in[2 + i] * d;
    }
}

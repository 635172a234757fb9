/* quantize_q4_0.c: 32 weights as fp16 d, 16 bytes of nibbles; w = d * (q - 8).
 *
 * Codes reach one step further down than up, so the largest magnitude is laid on the lower end:
 * d has the opposite sign. Tries RATIOS of it, as q8_0 does; four bits are coarse enough that the best is
 * then refitted to its codes by least squares, REFITS times. */
#include "quantize.h"
#include "symmetric.h"

#define BLOCK 32
#define BYTES 18
#define CANDIDATES 18
#define REFITS 2
#define LIMIT (7.0f * HALF_MAX)

static const float RATIOS[CANDIDATES] = {
    -1.00f / 9.25f, -1.02f / 9.25f, -1.04f / 9.25f, -1.06f / 9.25f, -1.08f / 9.25f, -1.10f / 9.25f,
    -1.12f / 9.25f, -1.14f / 9.25f, -1.16f / 9.25f, -1.18f / 9.25f, -1.20f / 9.25f, -1.22f / 9.25f,
    -1.24f / 9.25f, -1.26f / 9.25f, -1.28f / 9.25f, -1.30f / 9.25f, -1.32f / 9.25f, -1.34f / 9.25f};

int32_t quantize_q4_0(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
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
        lanes d = best_half_scale(xs, ws, BLOCK, RATIOS, CANDIDATES, -8.0f, 7.0f);
        for (int round = 0; round < REFITS; round++)
            d = refit_half_scale(xs, ws, BLOCK, d, -8.0f, 7.0f);
        lanes inverse = reciprocal(d);
        for (int l = 0; l < count; l++, out += BYTES) {
            float codes[BLOCK];
            uint16_t bits = half_bits(d[l]);
            memcpy(out, &bits, 2);
            round_codes(from[l], BLOCK, inverse[l], 0.0f, -8.0f, 7.0f, codes);
            for (int i = 0; i < 16; i++)
                out[2 + i] = (uint8_t)(((int32_t)codes[i] + 8) | ((int32_t)codes[i + 16] + 8) << 4);
        }
    }
    return QUANTIZE_OK;
}

void dequantize_q4_0(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES, out += BLOCK) {
        uint16_t bits;
        memcpy(&bits, in, 2);
        float d = half_value(bits);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)((int32_t)(in[2 + i] & 15) - 8) * d;
            out[i + 16] = (float)((int32_t)(in[2 + i] >> 4) - 8) * d;
        }
    }
}

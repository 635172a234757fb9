/* quantize_q5_0.c: 32 weights as fp16 d, 32 fifth bits, 16 bytes of nibbles; w = d * (q - 16).
 *
 * Codes reach one step further down than up, so the largest magnitude is laid on the lower end:
 * d has the opposite sign. Tries RATIOS of it, as q8_0 does. */
#include "quantize.h"
#include "symmetric.h"

#define BLOCK 32
#define BYTES 22
#define CANDIDATES 12
#define LIMIT (15.0f * HALF_MAX)

static const float RATIOS[CANDIDATES] = {
    -1.00f / 17.5f, -1.02f / 17.5f, -1.04f / 17.5f, -1.06f / 17.5f, -1.08f / 17.5f, -1.10f / 17.5f,
    -1.12f / 17.5f, -1.14f / 17.5f, -1.16f / 17.5f, -1.18f / 17.5f, -1.20f / 17.5f, -1.22f / 17.5f};

int32_t quantize_q5_0(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
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
        lanes d = best_half_scale(xs, ws, BLOCK, RATIOS, CANDIDATES, -16.0f, 15.0f);
        lanes inverse = reciprocal(d);
        for (int l = 0; l < count; l++, out += BYTES) {
            float codes[BLOCK];
            uint16_t bits = half_bits(d[l]);
            uint32_t fifth = 0;
            memcpy(out, &bits, 2);
            round_codes(from[l], BLOCK, inverse[l], 0.0f, -16.0f, 15.0f, codes);
            for (int i = 0; i < 16; i++) {
                uint32_t low = (uint32_t)((int32_t)codes[i] + 16), high = (uint32_t)((int32_t)codes[i + 16] + 16);
                fifth |= (low >> 4) << i | (high >> 4) << (i + 16);
                out[6 + i] = (uint8_t)((low & 15) | (high & 15) << 4);
            }
            memcpy(out + 2, &fifth, 4);
        }
    }
    return QUANTIZE_OK;
}

void dequantize_q5_0(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES, out += BLOCK) {
        uint16_t bits;
        uint32_t fifth;
        memcpy(&bits, in, 2);
        memcpy(&fifth, in + 2, 4);
        float d = half_value(bits);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)((int32_t)((in[6 + i] & 15) | (fifth >> i & 1) << 4) - 16) * d;
            out[i + 16] = (float)((int32_t)(in[6 + i] >> 4 | (fifth >> (i + 16) & 1) << 4) - 16) * d;
        }
    }
}

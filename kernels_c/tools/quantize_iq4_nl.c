/* quantize_iq4_nl.c: 32 weights as fp16 d, 16 bytes of nibbles; w = d * VALUE[q].
 *
 * The table reaches further down than up, so the largest magnitude is laid on its lower end or near it:
 * d has the opposite sign, or at the upper end the same. Tries RATIOS of it, each refitted (table.h). */
#include "quantize.h"
#include "table.h"
#include "packed_iq4_nl.h"

#define BLOCK 32
#define BYTES 18
#define CANDIDATES 20
#define LIMIT (113.0f * HALF_MAX)

static const float VALUE[TABLE] = {IQ4_NL_VALUES};

/* The largest weight at -134, -132 .. -106 and at 104, 108 .. 120. */
static const float RATIOS[CANDIDATES] = {
    1.0f / -134.0f, 1.0f / -132.0f, 1.0f / -130.0f, 1.0f / -128.0f, 1.0f / -126.0f, 1.0f / -124.0f, 1.0f / -122.0f,
    1.0f / -120.0f, 1.0f / -118.0f, 1.0f / -116.0f, 1.0f / -114.0f, 1.0f / -112.0f, 1.0f / -110.0f, 1.0f / -108.0f,
    1.0f / -106.0f, 1.0f / 104.0f,  1.0f / 108.0f,  1.0f / 112.0f,  1.0f / 116.0f,  1.0f / 120.0f};

int32_t quantize_iq4_nl(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    static const float zeros[BLOCK];
    float middle[TABLE - 1];
    table_middles(VALUE, middle);
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
        lanes d = best_table_scale(xs, ws, BLOCK, RATIOS, CANDIDATES, VALUE, middle);
        lanes inverse = reciprocal(d);
        for (int l = 0; l < count; l++, out += BYTES) {
            uint16_t bits = half_bits(d[l]);
            memcpy(out, &bits, 2);
            for (int i = 0; i < 16; i++) {
                uint32_t low = table_code(from[l][i] * inverse[l], middle);
                uint32_t high = table_code(from[l][i + 16] * inverse[l], middle);
                out[2 + i] = (uint8_t)(low | high << 4);
            }
        }
    }
    return QUANTIZE_OK;
}

void dequantize_iq4_nl(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES, out += BLOCK) {
        uint16_t bits;
        memcpy(&bits, in, 2);
        float d = half_value(bits);
        for (int i = 0; i < 16; i++) {
            out[i] = VALUE[in[2 + i] & 15] * d;
            out[i + 16] = VALUE[in[2 + i] >> 4] * d;
        }
    }
}

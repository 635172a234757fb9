/* quantize_q3_k.c: 256 weights as hmask[32], low bits[64], scales[12], fp16 d; w = (d * s) * (q - 4), s in
 * -32..31 (laid out in compiler/formats/q3_k.py).
 *
 * 1. For each sub-block of 16, a real scale by least squares over codes rounded with the peak at each of
 *    PEAKS codes; the one with the smallest error.
 * 2. d puts the largest of them at TOP, which leaves room above for step 3.
 * 3. For each sub-block, the integer scale that leaves the smallest error, of those from
 *    BELOW to ABOVE the one that step 1 asks for.
 * 4. d by least squares over all 256, with scales and codes kept; taken if the error, with
 *    codes rounded again, is smaller. */
#include "quantize.h"
#include "symmetric.h"

#define BLOCK 256
#define SUB 16
#define BYTES 110
#define PEAKS 9
#define PEAK_FIRST (-4.8f)
#define PEAK_STEP 0.2f
#define TOP (-27.0f)
#define BELOW (-4)
#define ABOVE 6
#define LIMIT (HALF_MAX * 27.0f * 3.0f)

typedef struct {
    lanes scale; /* integer */
    lanes gain;
    symmetric_sums sums;
} sub_fit;

/* Step 1. */
static inline lanes real_scale(const lanes *x, const lanes *w)
{
    lanes inverse = reciprocal(peak(x, SUB)), best = splat(0.0f), best_gain = splat(0.0f);
    for (int c = 0; c < PEAKS; c++) {
        symmetric_sums s = sum_symmetric(x, w, SUB, inverse * splat(PEAK_FIRST + PEAK_STEP * (float)c), -4.0f, 3.0f);
        lanes scale = s.xq * reciprocal(s.qq), gain = symmetric_gain(s, scale);
        mask better = gain > best_gain;
        best_gain = pick(better, gain, best_gain);
        best = pick(better, scale, best);
    }
    return best;
}

static inline void consider(const lanes *x, const lanes *w, lanes d, lanes scale, sub_fit *fit)
{
    lanes real = d * scale;
    symmetric_sums s = sum_symmetric(x, w, SUB, reciprocal(real), -4.0f, 3.0f);
    lanes gain = symmetric_gain(s, real);
    mask better = gain > fit->gain;
    fit->gain = pick(better, gain, fit->gain);
    fit->scale = pick(better, scale, fit->scale);
    fit->sums.xq = pick(better, s.xq, fit->sums.xq);
    fit->sums.qq = pick(better, s.qq, fit->sums.qq);
}

/* Step 3. Scales keep the sign of the one asked for. */
static inline sub_fit integer_scale(const lanes *x, const lanes *w, lanes d, lanes inverse_d, lanes asked)
{
    sub_fit fit = {splat(0.0f), splat(0.0f), {splat(0.0f), splat(0.0f)}};
    lanes centre = nearest(clamp(asked * inverse_d, splat(-31.0f), splat(31.0f)));
    mask sign = (mask)centre & (int32_t)0x80000000;
    lanes size = magnitude(centre);
    for (int t = BELOW; t <= ABOVE; t++) {
        lanes scale = clamp(size + splat((float)t), splat(0.0f), splat(31.0f));
        consider(x, w, d, (lanes)((mask)scale | sign), &fit);
    }
    return fit;
}

static void pack(const uint8_t codes[BLOCK], const uint8_t scales[16], uint8_t *out)
{
    memset(out, 0, BYTES);
    for (int i = 0; i < BLOCK; i++) {
        out[i % 32] |= (uint8_t)(codes[i] >> 2 << i / 32);
        out[32 + i / 128 * 32 + i % 32] |= (uint8_t)((codes[i] & 3) << 2 * (i % 128 / 32));
    }
    for (int j = 0; j < 16; j++) {
        out[96 + j % 8] |= (uint8_t)((scales[j] & 15) << 4 * (j / 8));
        out[104 + j % 4] |= (uint8_t)(scales[j] >> 4 << 2 * (j / 4));
    }
}

static int32_t encode(const float *x, const float *importance, uint8_t *out)
{
    lanes xs[2][SUB], ws[2][SUB], asked[2];
    sub_fit fit[2];
    int32_t largest = 0;
    for (int h = 0; h < 2; h++) {
        const float *from[LANES], *weights[LANES];
        for (int l = 0; l < LANES; l++) {
            from[l] = x + (h * LANES + l) * SUB;
            weights[l] = importance ? importance + (h * LANES + l) * SUB : ONES;
        }
        load_lanes(from, SUB, xs[h]);
        load_lanes(weights, SUB, ws[h]);
        int32_t bits = largest_bits(xs[h], SUB);
        largest = bits > largest ? bits : largest;
    }
    int32_t wrong = check_bits(largest, LIMIT);
    if (wrong)
        return wrong;

    float top = 0.0f;
    for (int h = 0; h < 2; h++) {
        asked[h] = real_scale(xs[h], ws[h]);
        for (int l = 0; l < LANES; l++) {
            float size = asked[h][l] < 0 ? -asked[h][l] : asked[h][l], most = top < 0 ? -top : top;
            if (size > most)
                top = asked[h][l];
        }
    }
    float d = half_scale_of(top / TOP);
    lanes ds = splat(d), inverse_d = reciprocal(ds);
    for (int h = 0; h < 2; h++)
        fit[h] = integer_scale(xs[h], ws[h], ds, inverse_d, asked[h]);

    lanes xq = fit[0].scale * fit[0].sums.xq + fit[1].scale * fit[1].sums.xq;
    lanes qq = (fit[0].scale * fit[0].scale) * fit[0].sums.qq + (fit[1].scale * fit[1].scale) * fit[1].sums.qq;
    float down = sum_of(qq);
    if (down > 0.0f) {
        float refit = half_scale_of(sum_of(xq) / down);
        lanes gain = splat(0.0f);
        for (int h = 0; h < 2; h++) {
            lanes real = splat(refit) * fit[h].scale;
            symmetric_sums s = sum_symmetric(xs[h], ws[h], SUB, reciprocal(real), -4.0f, 3.0f);
            gain += symmetric_gain(s, real);
        }
        if (sum_of(gain) > sum_of(fit[0].gain + fit[1].gain))
            d = refit;
    } else {
        d = 0.0f;
    }

    uint8_t codes[BLOCK], scales[16];
    for (int h = 0; h < 2; h++) {
        lanes inverse = reciprocal(splat(d) * fit[h].scale);
        for (int l = 0; l < LANES; l++) {
            float rounded[SUB];
            int first = (h * LANES + l) * SUB;
            round_codes(x + first, SUB, inverse[l], 0.0f, -4.0f, 3.0f, rounded);
            for (int i = 0; i < SUB; i++)
                codes[first + i] = (uint8_t)((int32_t)rounded[i] + 4);
            scales[h * LANES + l] = (uint8_t)((int32_t)fit[h].scale[l] + 32);
        }
    }
    pack(codes, scales, out);
    uint16_t bits = half_bits(d);
    memcpy(out + 108, &bits, 2);
    return QUANTIZE_OK;
}

int32_t quantize_q3_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
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

void dequantize_q3_k(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES) {
        uint16_t bits;
        memcpy(&bits, in + 108, 2);
        float d = half_value(bits);
        for (int j = 0; j < 16; j++, out += SUB) {
            int s = (in[96 + j % 8] >> 4 * (j / 8) & 15) | (in[104 + j % 4] >> 2 * (j / 4) & 3) << 4;
            float scale = d * (float)(s - 32);
            for (int i = 0; i < SUB; i++) {
                int at = j * SUB + i;
                int q = in[32 + at / 128 * 32 + at % 32] >> 2 * (at % 128 / 32) & 3;
                q += (in[at % 32] >> at / 32 & 1) * 4 - 4;
                out[i] = scale * (float)q;
            }
        }
    }
}

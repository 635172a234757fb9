/* quantize_q6_k.c: 256 weights as ql[128], qh[64], int8 scales[16], fp16 d; w = (d * s) * (q - 32).
 *
 * 1. For each sub-block of 16, a real scale by least squares over codes rounded at peak / -32.
 * 2. d puts the largest of them at TOP, which leaves room above for step 3.
 * 3. For each sub-block, the integer scale that leaves the smallest error, of those from
 *    BELOW to ABOVE the one that step 1 asks for: the error is a jagged function of the scale,
 *    and its least value more often lies above, where the peak's code is smaller than 32.
 * 4. d by least squares over all 256, with scales and codes kept; taken if the error, with
 *    codes rounded again, is smaller. */
#include "quantize.h"
#include "symmetric.h"

#define BLOCK 256
#define SUB 16
#define BYTES 210
#define TOP (-108.0f)
#define BELOW (-3)
#define ABOVE 24
#define LIMIT (HALF_MAX * 108.0f * 31.0f)

typedef struct {
    lanes scale; /* integer */
    lanes gain;
    symmetric_sums sums;
} sub_fit;

/* Step 1. */
static inline lanes real_scale(const lanes *x, const lanes *w)
{
    lanes inverse = reciprocal(peak(x, SUB)) * splat(-32.0f);
    symmetric_sums s = sum_symmetric(x, w, SUB, inverse, -32.0f, 31.0f);
    return s.xq * reciprocal(s.qq);
}

static inline void consider(const lanes *x, const lanes *w, lanes d, lanes scale, sub_fit *fit)
{
    lanes real = d * scale;
    symmetric_sums s = sum_symmetric(x, w, SUB, reciprocal(real), -32.0f, 31.0f);
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
    lanes centre = nearest(clamp(asked * inverse_d, splat(-127.0f), splat(127.0f)));
    mask sign = (mask)centre & (int32_t)0x80000000;
    lanes size = magnitude(centre);
    for (int t = BELOW; t <= ABOVE; t++) {
        lanes scale = clamp(size + splat((float)t), splat(0.0f), splat(127.0f));
        consider(x, w, d, (lanes)((mask)scale | sign), &fit);
    }
    return fit;
}

static void pack(const uint8_t codes[BLOCK], uint8_t *out)
{
    for (int half = 0; half < 2; half++, codes += 128)
        for (int l = 0; l < 32; l++) {
            uint8_t a = codes[l], b = codes[l + 32], c = codes[l + 64], e = codes[l + 96];
            out[64 * half + l] = (uint8_t)((a & 15) | (c & 15) << 4);
            out[64 * half + 32 + l] = (uint8_t)((b & 15) | (e & 15) << 4);
            out[128 + 32 * half + l] = (uint8_t)(a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6);
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
            symmetric_sums s = sum_symmetric(xs[h], ws[h], SUB, reciprocal(real), -32.0f, 31.0f);
            gain += symmetric_gain(s, real);
        }
        if (sum_of(gain) > sum_of(fit[0].gain + fit[1].gain))
            d = refit;
    } else {
        d = 0.0f;
    }

    uint8_t codes[BLOCK];
    for (int h = 0; h < 2; h++) {
        lanes inverse = reciprocal(splat(d) * fit[h].scale);
        for (int l = 0; l < LANES; l++) {
            float rounded[SUB];
            int first = (h * LANES + l) * SUB;
            round_codes(x + first, SUB, inverse[l], 0.0f, -32.0f, 31.0f, rounded);
            for (int i = 0; i < SUB; i++)
                codes[first + i] = (uint8_t)((int32_t)rounded[i] + 32);
            out[192 + h * LANES + l] = (uint8_t)(int8_t)fit[h].scale[l];
        }
    }
    pack(codes, out);
    uint16_t bits = half_bits(d);
    memcpy(out + 208, &bits, 2);
    return QUANTIZE_OK;
}

int32_t quantize_q6_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
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

void dequantize_q6_k(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES) {
        uint16_t bits;
        memcpy(&bits, in + 208, 2);
        float d = half_value(bits);
        for (int half = 0; half < 2; half++, out += 128) {
            const uint8_t *ql = in + 64 * half, *qh = in + 128 + 32 * half;
            const int8_t *s = (const int8_t *)in + 192 + 8 * half;
            for (int l = 0; l < 32; l++) {
                out[l] = (d * s[l / 16]) * (float)((ql[l] & 15) + ((qh[l] & 3) << 4) - 32);
                out[l + 32] = (d * s[2 + l / 16]) * (float)((ql[l + 32] & 15) + ((qh[l] >> 2 & 3) << 4) - 32);
                out[l + 64] = (d * s[4 + l / 16]) * (float)((ql[l] >> 4) + ((qh[l] >> 4 & 3) << 4) - 32);
                out[l + 96] = (d * s[6 + l / 16]) * (float)((ql[l + 32] >> 4) + ((qh[l] >> 6) << 4) - 32);
            }
        }
    }
}

/* quantize_q4_k.c: 256 weights as fp16 d, fp16 dmin, 12 bytes of scales, 128 bytes of nibbles;
 * eight sub-blocks of 32: w = (d * sc) * q - (dmin * m), sc and m in 0..63, q in 0..15.
 *
 * With codes q, scale S and minimum M the weighted squared error is
 * sum(w x x) - gain, gain = S (2 xq - S qq) - M (2 x - 2 S q + M w), so a choice is judged by
 * four sums. The eight sub-blocks lie in the eight lanes.
 *
 * 1. For each sub-block, real S and M >= 0 by least squares over codes rounded at a grid of
 *    ranges: SPREADS steps over the range, its lower end raised by SHIFTS fractions of it.
 * 2. d and dmin put the largest S and M at 63.
 * 3. For each sub-block, of the integers next to the wanted sc and m, the pair with the
 *    smallest error; for each sc and rounding, m is the best for those codes.
 * 4. d and dmin by least squares over all 256 with sc, m and codes kept; then step 3 again,
 *    ROUNDS times in all. The best round is written. */
#include "quantize.h"
#include "lanes.h"

#define BLOCK 256
#define SUB 32
#define BYTES 144
#define SPREADS 8
#define SHIFTS 3
#define ROUNDS 2
#define LIMIT (63.0f * HALF_MAX)

typedef struct {
    lanes q, qq, xq; /* sum(w q), sum(w q q), sum(w q x) */
} code_sums;

typedef struct {
    lanes w, x; /* sum(w), sum(w x) */
} weight_sums;

typedef struct {
    float d, dmin;
    lanes sc, m; /* integers */
    lanes gain;
    code_sums sums;
} block_fit;

static inline code_sums sum_codes(const lanes *x, const lanes *w, lanes inverse, lanes offset)
{
    code_sums s = {splat(0.0f), splat(0.0f), splat(0.0f)};
    for (int i = 0; i < SUB; i++) {
        lanes q = nearest(clamp(x[i] * inverse + offset, splat(0.0f), splat(15.0f)));
        lanes wq = w[i] * q;
        s.q += wq;
        s.qq += wq * q;
        s.xq += wq * x[i];
    }
    return s;
}

static inline lanes gain_of(code_sums s, weight_sums t, lanes scale, lanes minimum)
{
    lanes linear = scale * ((s.xq + s.xq) - scale * s.qq);
    return linear - minimum * (((t.x + t.x) - (scale + scale) * s.q) + minimum * t.w);
}

/* Step 1. */
static inline void real_fit(const lanes *x, const lanes *w, weight_sums t, lanes inverse_w, lanes *scale,
                            lanes *minimum)
{
    lanes low = splat(0.0f), high = x[0];
    for (int i = 0; i < SUB; i++) {
        low = pick(x[i] < low, x[i], low);
        high = pick(x[i] > high, x[i], high);
    }
    lanes range = high - low;
    lanes inverse_range = reciprocal(pick(range < splat(TINY), splat(0.0f), range));
    lanes best_gain = splat(0.0f);
    *scale = *minimum = splat(0.0f);
    for (int c = 0; c < SPREADS; c++) {
        lanes inverse = splat(14.0f + 0.3f * (float)c) * inverse_range;
        for (int e = 0; e < SHIFTS; e++) {
            lanes start = low + splat(0.02f * (float)e) * range;
            code_sums s = sum_codes(x, w, inverse, splat(0.0f) - start * inverse);
            lanes inverse_det = reciprocal(t.w * s.qq - s.q * s.q);
            lanes fit_scale = (t.w * s.xq - t.x * s.q) * inverse_det;
            lanes fit_minimum = (fit_scale * s.q - t.x) * inverse_w;
            mask negative = fit_minimum < splat(0.0f);
            fit_scale = pick(negative, s.xq * reciprocal(s.qq), fit_scale);
            fit_minimum = pick(negative, splat(0.0f), fit_minimum);
            lanes gain = gain_of(s, t, fit_scale, fit_minimum);
            mask better = (gain > best_gain) & (fit_scale > splat(0.0f));
            best_gain = pick(better, gain, best_gain);
            *scale = pick(better, fit_scale, *scale);
            *minimum = pick(better, fit_minimum, *minimum);
        }
    }
}

/* Step 3: the integers for d and dmin that come nearest to the wanted scale and minimum. */
static inline block_fit integer_fit(const lanes *x, const lanes *w, weight_sums t, lanes inverse_w, float d,
                                    float dmin, lanes scale, lanes minimum)
{
    const lanes zero = splat(0.0f), most = splat(63.0f);
    lanes ds = splat(d), mins = splat(dmin), inverse_dmin = reciprocal(mins);
    lanes sc0 = nearest(clamp(scale * reciprocal(ds), zero, most));
    lanes m0 = nearest(clamp(minimum * inverse_dmin, zero, most));
    block_fit fit = {d, dmin, zero, zero, zero, {zero, zero, zero}};
    for (int a = -1; a <= 1; a++) {
        lanes sc = clamp(sc0 + splat((float)a), zero, most);
        lanes real = ds * sc, inverse = reciprocal(real);
        for (int b = -1; b <= 1; b++) {
            lanes m = clamp(m0 + splat((float)b), zero, most);
            code_sums s = sum_codes(x, w, inverse, (mins * m) * inverse);
            m = nearest(clamp(((real * s.q - t.x) * inverse_w) * inverse_dmin, zero, most));
            lanes gain = gain_of(s, t, real, mins * m);
            mask better = gain > fit.gain;
            fit.gain = pick(better, gain, fit.gain);
            fit.sc = pick(better, sc, fit.sc);
            fit.m = pick(better, m, fit.m);
            fit.sums.q = pick(better, s.q, fit.sums.q);
            fit.sums.qq = pick(better, s.qq, fit.sums.qq);
            fit.sums.xq = pick(better, s.xq, fit.sums.xq);
        }
    }
    return fit;
}

/* Step 4: least squares for d and dmin. False where the sums decide nothing. */
static inline int refit(const block_fit *fit, weight_sums t, float *d, float *dmin)
{
    float cc = sum_of((fit->sc * fit->sc) * fit->sums.qq), cm = sum_of((fit->sc * fit->m) * fit->sums.q);
    float mm = sum_of((fit->m * fit->m) * t.w);
    float xc = sum_of(fit->sc * fit->sums.xq), xm = sum_of(fit->m * t.x);
    float det = cc * mm - cm * cm;
    if (!(cc > 0.0f))
        return 0;
    if (det > 0.0f) {
        *d = (xc * mm - xm * cm) / det;
        *dmin = (xc * cm - xm * cc) / det;
    } else {
        *d = xc / cc;
        *dmin = 0.0f;
    }
    if (*dmin < 0.0f)
        *dmin = 0.0f;
    *d = half_scale_of(*d);
    *dmin = half_scale_of(*dmin);
    return *d > 0.0f;
}

static void pack_scales(lanes scs, lanes ms, uint8_t *out)
{
    memset(out, 0, 12);
    for (int j = 0; j < 8; j++) {
        uint8_t sc = (uint8_t)scs[j], m = (uint8_t)ms[j];
        if (j < 4) {
            out[j] = sc;
            out[j + 4] = m;
        } else {
            out[j + 4] = (uint8_t)((sc & 15) | (m & 15) << 4);
            out[j - 4] |= (uint8_t)((sc >> 4) << 6);
            out[j] |= (uint8_t)((m >> 4) << 6);
        }
    }
}

static int32_t encode(const float *x, const float *importance, uint8_t *out)
{
    const float *from[LANES], *weights[LANES];
    for (int l = 0; l < LANES; l++) {
        from[l] = x + l * SUB;
        weights[l] = importance ? importance + l * SUB : ONES;
    }
    lanes xs[SUB], ws[SUB];
    load_lanes(from, SUB, xs);
    load_lanes(weights, SUB, ws);
    int32_t wrong = check_bits(largest_bits(xs, SUB), LIMIT);
    if (wrong)
        return wrong;

    weight_sums t = {splat(0.0f), splat(0.0f)};
    for (int i = 0; i < SUB; i++) {
        t.w += ws[i];
        t.x += ws[i] * xs[i];
    }
    lanes inverse_w = reciprocal(t.w), scale, minimum;
    real_fit(xs, ws, t, inverse_w, &scale, &minimum);
    float d = 0.0f, dmin = 0.0f;
    for (int l = 0; l < LANES; l++) {
        d = scale[l] > d ? scale[l] : d;
        dmin = minimum[l] > dmin ? minimum[l] : dmin;
    }
    d = half_scale_of(d / 63.0f);
    dmin = half_scale_of(dmin / 63.0f);

    block_fit best = integer_fit(xs, ws, t, inverse_w, d, dmin, scale, minimum);
    block_fit last = best;
    for (int round = 1; round < ROUNDS && refit(&last, t, &d, &dmin); round++) {
        last = integer_fit(xs, ws, t, inverse_w, d, dmin, splat(last.d) * last.sc, splat(last.dmin) * last.m);
        if (sum_of(last.gain) > sum_of(best.gain))
            best = last;
    }

    uint16_t bits = half_bits(best.d);
    memcpy(out, &bits, 2);
    bits = half_bits(best.dmin);
    memcpy(out + 2, &bits, 2);
    pack_scales(best.sc, best.m, out + 4);
    lanes inverse = reciprocal(splat(best.d) * best.sc), offset = (splat(best.dmin) * best.m) * inverse;
    for (int j = 0; j < 4; j++) {
        float low[SUB], high[SUB];
        round_codes(from[2 * j], SUB, inverse[2 * j], offset[2 * j], 0.0f, 15.0f, low);
        round_codes(from[2 * j + 1], SUB, inverse[2 * j + 1], offset[2 * j + 1], 0.0f, 15.0f, high);
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
            int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
            int m = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
            float scale = d * (float)sc, minimum = dmin * (float)m;
            for (int i = 0; i < SUB; i++)
                out[i] = scale * (float)(nibbles[SUB * (j / 2) + i] >> 4 * (j & 1) & 15) - minimum;
        }
    }
}

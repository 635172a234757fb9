/* affine.h: the fit of superblocks of 256 weights with integer scales and minima, w = (d * sc) * q - (dmin * m).
 *
 * The file of a format says, before it includes this: SUB (weights a sub-block) and SETS (sub-blocks, in
 * eights), TOP (the largest code), MOST (the largest sc and m), and the grid of step 1.
 *
 * With codes q, scale S and minimum M the weighted squared error is
 * sum(w x x) - gain, gain = S (2 xq - S qq) - M (2 x - 2 S q + M w), so a choice is judged by
 * four sums. Eight sub-blocks lie in the eight lanes.
 *
 * 1. For each sub-block, real S and M >= 0 by least squares over codes rounded at a grid of
 *    ranges: SPREADS steps over the range, its lower end raised by SHIFTS fractions of it.
 * 2. d and dmin put the largest S and M at MOST.
 * 3. For each sub-block, of the integers next to the wanted sc and m, the pair with the
 *    smallest error; for each sc and rounding, m is the best for those codes.
 * 4. d and dmin by least squares over all 256 with sc, m and codes kept; then step 3 again,
 *    ROUNDS times in all. The best round is written. */
#ifndef ENGINE_AFFINE_H
#define ENGINE_AFFINE_H
#include "lanes.h"

#define ROUNDS 2
_Static_assert(SUB * SETS * LANES == 256, "a superblock has 256 weights");

typedef struct {
    lanes q, qq, xq; /* sum(w q), sum(w q q), sum(w q x) */
} code_sums;

typedef struct {
    lanes w, x; /* sum(w), sum(w x) */
} weight_sums;

/* Of eight sub-blocks. */
typedef struct {
    lanes sc, m; /* integers */
    lanes gain;
    code_sums sums;
} sub_fit;

/* Of a whole block; sub-block j is lane j % 8 of set j / 8. */
typedef struct {
    float d, dmin;
    sub_fit set[SETS];
} block_fit;

/* The weights of eight sub-blocks, and the sums that no code changes. */
typedef struct {
    lanes x[SUB], w[SUB];
    weight_sums t;
    lanes inverse_w;
} sub_blocks;

static inline code_sums sum_codes(const lanes *x, const lanes *w, lanes inverse, lanes offset)
{
    code_sums s = {splat(0.0f), splat(0.0f), splat(0.0f)};
    for (int i = 0; i < SUB; i++) {
        lanes q = nearest(clamp(x[i] * inverse + offset, splat(0.0f), splat((float)TOP)));
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
        lanes inverse = splat(SPREAD_FIRST + SPREAD_STEP * (float)c) * inverse_range;
        for (int e = 0; e < SHIFTS; e++) {
            lanes start = low + splat(SHIFT_STEP * (float)e) * range;
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
static inline sub_fit integer_fit(const sub_blocks *in, float d, float dmin, lanes scale, lanes minimum)
{
    const lanes zero = splat(0.0f), most = splat((float)MOST);
    lanes ds = splat(d), mins = splat(dmin), inverse_dmin = reciprocal(mins);
    lanes sc0 = nearest(clamp(scale * reciprocal(ds), zero, most));
    lanes m0 = nearest(clamp(minimum * inverse_dmin, zero, most));
    sub_fit fit = {zero, zero, zero, {zero, zero, zero}};
    for (int a = -1; a <= 1; a++) {
        lanes sc = clamp(sc0 + splat((float)a), zero, most);
        lanes real = ds * sc, inverse = reciprocal(real);
        for (int b = -1; b <= 1; b++) {
            lanes m = clamp(m0 + splat((float)b), zero, most);
            code_sums s = sum_codes(in->x, in->w, inverse, (mins * m) * inverse);
            m = nearest(clamp(((real * s.q - in->t.x) * in->inverse_w) * inverse_dmin, zero, most));
            lanes gain = gain_of(s, in->t, real, mins * m);
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

/* Sum over the sub-blocks: of 16, those eight apart first. */
static inline float total_of(const lanes *v) { return sum_of(SETS == 1 ? v[0] : v[0] + v[SETS - 1]); }

static inline float gain_of_block(const block_fit *fit)
{
    lanes gain[SETS];
    for (int h = 0; h < SETS; h++)
        gain[h] = fit->set[h].gain;
    return total_of(gain);
}

/* Step 4: least squares for d and dmin. False where the sums decide nothing. */
static inline int refit(const block_fit *fit, const sub_blocks *in, float *d, float *dmin)
{
    lanes terms[5][SETS];
    for (int h = 0; h < SETS; h++) {
        const sub_fit *s = &fit->set[h];
        terms[0][h] = (s->sc * s->sc) * s->sums.qq;
        terms[1][h] = (s->sc * s->m) * s->sums.q;
        terms[2][h] = (s->m * s->m) * in[h].t.w;
        terms[3][h] = s->sc * s->sums.xq;
        terms[4][h] = s->m * in[h].t.x;
    }
    float cc = total_of(terms[0]), cm = total_of(terms[1]), mm = total_of(terms[2]);
    float xc = total_of(terms[3]), xm = total_of(terms[4]);
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

/* The sub-blocks of a block; QUANTIZE_OK or what is wrong with its weights. */
static inline int32_t load_sub_blocks(const float *x, const float *importance, sub_blocks *in)
{
    int32_t largest = 0;
    for (int h = 0; h < SETS; h++) {
        const float *from[LANES], *weights[LANES];
        for (int l = 0; l < LANES; l++) {
            from[l] = x + (h * LANES + l) * SUB;
            weights[l] = importance ? importance + (h * LANES + l) * SUB : ONES;
        }
        load_lanes(from, SUB, in[h].x);
        load_lanes(weights, SUB, in[h].w);
        int32_t bits = largest_bits(in[h].x, SUB);
        largest = bits > largest ? bits : largest;
        in[h].t.w = in[h].t.x = splat(0.0f);
        for (int i = 0; i < SUB; i++) {
            in[h].t.w += in[h].w[i];
            in[h].t.x += in[h].w[i] * in[h].x[i];
        }
        in[h].inverse_w = reciprocal(in[h].t.w);
    }
    return check_bits(largest, (float)MOST * HALF_MAX);
}

/* The scales and minima of a block; QUANTIZE_OK or what is wrong with its weights. */
static inline int32_t affine_fit(const float *x, const float *importance, block_fit *best)
{
    sub_blocks in[SETS];
    int32_t wrong = load_sub_blocks(x, importance, in);
    if (wrong)
        return wrong;
    lanes scale[SETS], minimum[SETS];
    float d = 0.0f, dmin = 0.0f;
    for (int h = 0; h < SETS; h++) {
        real_fit(in[h].x, in[h].w, in[h].t, in[h].inverse_w, &scale[h], &minimum[h]);
        for (int l = 0; l < LANES; l++) {
            d = scale[h][l] > d ? scale[h][l] : d;
            dmin = minimum[h][l] > dmin ? minimum[h][l] : dmin;
        }
    }
    d = half_scale_of(d / (float)MOST);
    dmin = half_scale_of(dmin / (float)MOST);
    block_fit last;
    for (int round = 0; round < ROUNDS; round++) {
        if (round && !refit(&last, in, &d, &dmin))
            break;
        for (int h = 0; h < SETS; h++) {
            lanes sc = round ? splat(last.d) * last.set[h].sc : scale[h];
            lanes m = round ? splat(last.dmin) * last.set[h].m : minimum[h];
            last.set[h] = integer_fit(&in[h], d, dmin, sc, m);
        }
        last.d = d;
        last.dmin = dmin;
        if (!round || gain_of_block(&last) > gain_of_block(best))
            *best = last;
    }
    return QUANTIZE_OK;
}
#endif

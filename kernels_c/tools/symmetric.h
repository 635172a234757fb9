/* symmetric.h: the fit of blocks without a minimum, w = S * q.
 *
 * For codes q rounded at scale S the weighted squared error is
 * sum(w x x) - S (2 sum(w q x) - S sum(w q q)), so the best S is the one with the largest
 * S (2 xq - S qq): nothing else depends on S.
 */
#ifndef ENGINE_SYMMETRIC_H
#define ENGINE_SYMMETRIC_H
#include "lanes.h"

typedef struct {
    lanes xq; /* sum(w q x) */
    lanes qq; /* sum(w q q) */
} symmetric_sums;

/* Codes at 1 / S = inverse, weights ascending. */
static inline symmetric_sums sum_symmetric(const lanes *x, const lanes *w, int n, lanes inverse, float low,
                                           float high)
{
    symmetric_sums s = {splat(0.0f), splat(0.0f)};
    for (int i = 0; i < n; i++) {
        lanes q = nearest(clamp(x[i] * inverse, splat(low), splat(high)));
        lanes wq = w[i] * q;
        s.xq += wq * x[i];
        s.qq += wq * q;
    }
    return s;
}

static inline lanes symmetric_gain(symmetric_sums s, lanes scale)
{
    return scale * ((s.xq + s.xq) - scale * s.qq);
}

/* The weight of largest magnitude in each lane, with its sign; the first of equals. 0 where
 * no magnitude reaches TINY. */
static inline lanes peak(const lanes *x, int n)
{
    lanes most = splat(0.0f), value = splat(0.0f);
    for (int i = 0; i < n; i++) {
        lanes size = magnitude(x[i]);
        mask more = size > most;
        most = pick(more, size, most);
        value = pick(more, x[i], value);
    }
    return pick(most < splat(TINY), splat(0.0f), value);
}

/* The one of `count` scales, half_scale(peak * ratio[c]), that leaves the smallest error; the
 * first of equals; 0 where none is better than all zeros. */
static inline lanes best_half_scale(const lanes *x, const lanes *w, int n, const float *ratio, int count,
                                    float low, float high)
{
    lanes top = peak(x, n), best_gain = splat(0.0f), best = splat(0.0f);
    for (int c = 0; c < count; c++) {
        lanes scale = half_scale(top * splat(ratio[c]));
        lanes gain = symmetric_gain(sum_symmetric(x, w, n, reciprocal(scale), low, high), scale);
        mask better = gain > best_gain;
        best_gain = pick(better, gain, best_gain);
        best = pick(better, scale, best);
    }
    return best;
}

/* The least squares scale of the codes at `scale`, as a half holds it, where that is better. */
static inline lanes refit_half_scale(const lanes *x, const lanes *w, int n, lanes scale, float low, float high)
{
    symmetric_sums s = sum_symmetric(x, w, n, reciprocal(scale), low, high);
    lanes refit = half_scale(s.xq * reciprocal(s.qq));
    lanes gain = symmetric_gain(sum_symmetric(x, w, n, reciprocal(refit), low, high), refit);
    return pick(gain > symmetric_gain(s, scale), refit, scale);
}

#endif

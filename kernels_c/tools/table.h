/* table.h: the fit of blocks whose codes are indices of a table, w = S * value[code].
 *
 * The values ascend; a weight takes the nearest, the lower of two at the same distance. For given codes
 * the best S is sum(w v x) / sum(w v v), so each candidate's codes are refitted once: the scale kept is
 * the one whose gain S (2 vx - S vv) (symmetric.h) is largest, and the codes are then rounded at it,
 * which cannot make the error larger.
 */
#ifndef ENGINE_TABLE_H
#define ENGINE_TABLE_H
#include "symmetric.h"

#define TABLE 16

/* Halfway between neighbours: integers and halves of them, exact. */
static inline void table_middles(const float *value, float *middle)
{
    for (int i = 0; i < TABLE - 1; i++)
        middle[i] = (value[i] + value[i + 1]) * 0.5f;
}

/* Sums of value (as q) over n weights with codes at 1 / S = inverse, weights ascending. */
static inline symmetric_sums sum_table(const lanes *x, const lanes *w, int n, lanes inverse, const float *value,
                                       const float *middle)
{
    symmetric_sums s = {splat(0.0f), splat(0.0f)};
    for (int i = 0; i < n; i++) {
        lanes scaled = x[i] * inverse, v = splat(value[0]);
        for (int j = 0; j < TABLE - 1; j++)
            v = pick(scaled > splat(middle[j]), splat(value[j + 1]), v);
        lanes wv = w[i] * v;
        s.xq += wv * x[i];
        s.qq += wv * v;
    }
    return s;
}

/* The best scale of `count` candidates half_scale(peak * ratio[c]), each refitted to its codes; the first
 * of equals; 0 where none is better than all zeros. */
static inline lanes best_table_scale(const lanes *x, const lanes *w, int n, const float *ratio, int count,
                                     const float *value, const float *middle)
{
    lanes top = peak(x, n), best_gain = splat(0.0f), best = splat(0.0f);
    for (int c = 0; c < count; c++) {
        lanes first = half_scale(top * splat(ratio[c]));
        symmetric_sums s = sum_table(x, w, n, reciprocal(first), value, middle);
        lanes scale = half_scale(s.xq * reciprocal(s.qq));
        lanes gain = symmetric_gain(s, scale);
        mask better = gain > best_gain;
        best_gain = pick(better, gain, best_gain);
        best = pick(better, scale, best);
    }
    return best;
}

/* The index of the value nearest to `scaled`. */
static inline uint32_t table_code(float scaled, const float *middle)
{
    uint32_t code = 0;
    for (int j = 0; j < TABLE - 1; j++)
        code += scaled > middle[j];
    return code;
}

#endif

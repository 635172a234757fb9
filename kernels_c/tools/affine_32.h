/* affine_32.h: the fit of blocks with a minimum, w = S * q + M, S and M halves, q in 0 .. most.
 *
 * Weights are taken from the block's smallest on, so that a large minimum costs no digits. With codes q,
 * scale S and minimum M the weighted squared error is then sum(w x x) - gain,
 * gain = S (2 xq - S qq) + M ((2 x - 2 S q) - M w), so a choice is judged by a few sums.
 *
 * 1. Codes rounded at a grid of ranges: SPREADS steps over the range, its lower end raised by SHIFTS
 *    fractions of it; for each, S and M by least squares.
 * 2. S and M become halves, codes are rounded at them anew, and judged. The best is kept.
 * 3. From the best codes, S and M by least squares and step 2, REFITS times.
 * What competes with all of them is S = 0: the block's mean. */
#ifndef ENGINE_AFFINE_32_H
#define ENGINE_AFFINE_32_H
#include "lanes.h"

#define AFFINE_BLOCK 32
#define AFFINE_SPREADS 8
#define AFFINE_SHIFTS 3
#define AFFINE_REFITS 2

typedef struct {
    lanes q, qq, xq; /* sum(w q), sum(w q q), sum(w q x) */
} affine_sums;

typedef struct {
    const lanes *x, *w;            /* weights above the block's smallest, and their importance */
    lanes low, sum_w, sum_x, inverse_w;
    float most;
} affine_block;

typedef struct {
    lanes scale, minimum, gain;    /* halves, the minimum that of the weights as they are */
    affine_sums sums;
} affine_fit;

static inline affine_sums sum_affine(const affine_block *b, lanes inverse, lanes offset)
{
    affine_sums s = {splat(0.0f), splat(0.0f), splat(0.0f)};
    for (int i = 0; i < AFFINE_BLOCK; i++) {
        lanes q = nearest(clamp(b->x[i] * inverse + offset, splat(0.0f), splat(b->most)));
        lanes wq = b->w[i] * q;
        s.q += wq;
        s.qq += wq * q;
        s.xq += wq * b->x[i];
    }
    return s;
}

static inline lanes affine_gain(const affine_block *b, affine_sums s, lanes scale, lanes minimum)
{
    lanes linear = scale * ((s.xq + s.xq) - scale * s.qq);
    return linear + minimum * (((b->sum_x + b->sum_x) - (scale + scale) * s.q) - minimum * b->sum_w);
}

/* Steps 1 or 3, then 2: the least squares of codes with sums s against the best so far. */
static inline void try_affine(const affine_block *b, affine_sums s, affine_fit *best)
{
    lanes inverse_det = reciprocal(b->sum_w * s.qq - s.q * s.q);
    lanes scale = half_scale((b->sum_w * s.xq - b->sum_x * s.q) * inverse_det);
    lanes minimum = half_scale(b->low + (b->sum_x - scale * s.q) * b->inverse_w);
    lanes above = minimum - b->low, inverse = reciprocal(scale);
    affine_sums now = sum_affine(b, inverse, splat(0.0f) - above * inverse);
    lanes gain = affine_gain(b, now, scale, above);
    mask better = (gain > best->gain) & (scale > splat(0.0f));
    best->gain = pick(better, gain, best->gain);
    best->scale = pick(better, scale, best->scale);
    best->minimum = pick(better, minimum, best->minimum);
    best->sums.q = pick(better, now.q, best->sums.q);
    best->sums.qq = pick(better, now.qq, best->sums.qq);
    best->sums.xq = pick(better, now.xq, best->sums.xq);
}

/* x is lowered to the block's smallest in place. */
static inline affine_fit fit_affine(lanes *x, const lanes *w, float most)
{
    lanes zero = splat(0.0f), low = x[0], high = x[0];
    for (int i = 1; i < AFFINE_BLOCK; i++) {
        low = pick(x[i] < low, x[i], low);
        high = pick(x[i] > high, x[i], high);
    }
    affine_block b = {x, w, low, zero, zero, zero, most};
    for (int i = 0; i < AFFINE_BLOCK; i++) {
        x[i] = x[i] - low;
        b.sum_w += w[i];
        b.sum_x += w[i] * x[i];
    }
    b.inverse_w = reciprocal(b.sum_w);
    lanes range = high - low;
    lanes inverse_range = reciprocal(pick(range < splat(TINY), zero, range));

    affine_fit best = {zero, half_scale(low + b.sum_x * b.inverse_w), zero, {zero, zero, zero}};
    best.gain = affine_gain(&b, best.sums, zero, best.minimum - low);
    for (int c = 0; c < AFFINE_SPREADS; c++)
        for (int e = 0; e < AFFINE_SHIFTS; e++) {
            lanes inverse = splat((most - 1.0f) + 0.3f * (float)c) * inverse_range;
            lanes start = splat(0.02f * (float)e) * range;
            try_affine(&b, sum_affine(&b, inverse, zero - start * inverse), &best);
        }
    for (int round = 0; round < AFFINE_REFITS; round++)
        try_affine(&b, best.sums, &best);
    return best;
}

/* The codes of a row's block at scale and minimum of lane l. */
static inline void affine_codes(const float *x, affine_fit fit, int l, float most, uint8_t *out)
{
    float lowered[AFFINE_BLOCK], codes[AFFINE_BLOCK];
    for (int i = 0; i < AFFINE_BLOCK; i++)
        lowered[i] = x[i] - fit.minimum[l];
    round_codes(lowered, AFFINE_BLOCK, reciprocal(fit.scale)[l], 0.0f, 0.0f, most, codes);
    for (int i = 0; i < AFFINE_BLOCK; i++)
        out[i] = (uint8_t)codes[i];
}

/* Fits all blocks of rows, eight at a time, and hands each to put(scale and minimum as bits, codes, out).
 * QUANTIZE_OK, or what is wrong with a weight. A minimum is a half: none is beyond HALF_MAX. */
static inline int32_t quantize_affine(const float *x, const float *importance, int64_t rows, int64_t k, float most,
                                      int64_t bytes, void (*put)(const uint16_t *, const uint8_t *, uint8_t *),
                                      uint8_t *out)
{
    static const float zeros[AFFINE_BLOCK];
    if (k % AFFINE_BLOCK)
        return 1; /* QUANTIZE_E_SHAPE */
    int64_t row_blocks = k / AFFINE_BLOCK, blocks = rows * row_blocks;
    for (int64_t b = 0; b < blocks; b += LANES) {
        const float *from[LANES], *weights[LANES];
        int count = blocks - b < LANES ? (int)(blocks - b) : LANES;
        for (int l = 0; l < LANES; l++) {
            from[l] = l < count ? x + (b + l) * AFFINE_BLOCK : zeros;
            weights[l] = importance && l < count ? importance + (b + l) % row_blocks * AFFINE_BLOCK : ONES;
        }
        lanes xs[AFFINE_BLOCK], ws[AFFINE_BLOCK];
        load_lanes(from, AFFINE_BLOCK, xs);
        load_lanes(weights, AFFINE_BLOCK, ws);
        int32_t wrong = check_bits(largest_bits(xs, AFFINE_BLOCK), HALF_MAX);
        if (wrong)
            return wrong;
        affine_fit fit = fit_affine(xs, ws, most);
        for (int l = 0; l < count; l++, out += bytes) {
            uint16_t bits[2] = {half_bits(fit.scale[l]), half_bits(fit.minimum[l])};
            uint8_t codes[AFFINE_BLOCK];
            affine_codes(from[l], fit, l, most, codes);
            put(bits, codes, out);
        }
    }
    return 0;
}

#endif

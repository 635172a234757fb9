/* sampling.c: from a row of logits to a token. Plain C, shared by all backends.
 *
 * The order of the steps (the default chain of llama.cpp, with the bias after
 * the penalties):
 *
 *   1 penalties     repetition: a logit of a token in the history is divided by
 *                   the penalty if positive, else multiplied by it; then
 *                   count * frequency + presence is subtracted; then DRY's penalty
 *                   from a token that would prolong a repetition
 *   2 bias          logit += bias; -INFINITY forbids a token; so does a bit that
 *                   `allowed` lacks (a grammar's)
 *   3 temperature 0 the largest logit, and nothing below applies
 *   4 top_k         the k largest logits
 *   5 typical_p     by |surprise - entropy| ascending, until their share >= typical_p
 *   6 top_p         by logit descending, until their share >= top_p
 *   7 min_p         those with probability >= min_p times the largest one's
 *   8 xtc           with its probability: of the tokens at least as probable as its
 *                   threshold, all but the least probable one go
 *   9 temperature   exp((logit - max) / temperature) over what is left
 *  10 draw          inverse CDF in ascending order of ids, Philox 4x32-10
 *
 * 5 to 8 see probabilities at temperature 1, over what the steps before left.
 * Of equals the lowest id comes first, everywhere.
 *
 * The same inputs give the same token on every machine and compiler:
 *   - exp is a polynomial of ours, in float, no fma; log likewise in double;
 *   - probabilities are summed as integers: a weight exp(x - max) in [0, 1] counts
 *     floor(2^40 * weight), so no sum depends on its order or on SIMD width;
 *   - the draw and XTC's depend on (seed, position) only.
 * Compile without fast-math and with -ffp-contract=off.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "engine_abi.h"

/* Sums of 2^40 * weight stay below 2^63. */
#define SAMPLING_MAX_VOCAB (1 << 23)
#define SAMPLING_BLOCK 256
#define SAMPLING_FLT_MAX 3.402823466e+38f
/* The longest repetition that DRY tells apart, so that its work is linear in the history. */
#define SAMPLING_DRY_LONGEST 50
#define SAMPLING_DRY_MOST 1e30f

/* ---- numbers ----------------------------------------------------------- */

static inline uint32_t sampling_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float sampling_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* e^x for x <= 0, within 2 ulp; arguments below -87 count as -87 (1.6e-38).
 * x = n ln2 + r, |r| <= ln2 / 2; e^r by its Taylor polynomial of degree 7;
 * the scale by 2^n is put into the exponent. n is rounded to nearest even by
 * adding and subtracting 1.5 * 2^23. The clamp compares bits, as all choices in
 * loops over whole rows do: a float comparison may trap and keeps the compiler
 * from using SIMD. */
static inline float sampling_exp(float x)
{
    const float magic = 12582912.0f;
    uint32_t u = sampling_bits(x);
    float r, n, p;
    x = sampling_float(u > 0xC2AE0000u ? 0xC2AE0000u : u); /* the bits of -87 */
    n = x * 1.44269504f + magic;
    n = n - magic;
    r = x - n * 0.693145752f; /* ln2, upper bits: the product is exact */
    r = r - n * 1.42860677e-6f;
    p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * sampling_float((uint32_t)((int32_t)n + 127) << 23);
}

/* ln x for a finite normal x > 0, within 1e-15 relative to max(1, |ln x|).
 * x = m 2^k with m in [sqrt(1/2), sqrt 2); ln m = 2 atanh((m-1)/(m+1)), Taylor
 * to the 21st power. */
static double sampling_log(double x)
{
    uint64_t u;
    int32_t k;
    double m, s, z, p;
    memcpy(&u, &x, sizeof u);
    k = (int32_t)(u >> 52) - 1023;
    u = (u & 0xfffffffffffffULL) | 0x3ff0000000000000ULL;
    memcpy(&m, &u, sizeof m);
    if (m >= 1.4142135623730951) {
        m = m * 0.5;
        k = k + 1;
    }
    s = (m - 1.0) / (m + 1.0);
    z = s * s;
    p = 1.0 / 21.0;
    p = p * z + 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    p = p * z + 1.0;
    return 2.0 * s * p + (double)k * 0.69314718055994531;
}

/* floor(2^40 * w) for w in [0, 1]. */
static inline uint64_t sampling_weight(float w)
{
    return (uint64_t)(int64_t)(w * 1099511627776.0f);
}

/* A key that orders floats (no NaN) descending: the larger the float, the smaller the key. */
static inline uint32_t sampling_descending(float x)
{
    int32_t u = (int32_t)sampling_bits(x + 0.0f); /* -0 and +0 are equal */
    return (uint32_t)u ^ (~(uint32_t)(u >> 31) & 0x7fffffffu);
}

/* Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). */
static void sampling_philox(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    int round;
    for (round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter[0];
        uint64_t b = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t c0 = (uint32_t)(b >> 32) ^ counter[1] ^ key0;
        uint32_t c2 = (uint32_t)(a >> 32) ^ counter[3] ^ key1;
        counter[1] = (uint32_t)b;
        counter[3] = (uint32_t)a;
        counter[0] = c0;
        counter[2] = c2;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* floor(u * n / 2^64): a number in [0, n) from 64 random bits. */
static uint64_t sampling_scale(uint64_t u, uint64_t n)
{
    uint64_t u0 = u & 0xffffffffu, u1 = u >> 32, n0 = n & 0xffffffffu, n1 = n >> 32;
    uint64_t mid = u1 * n0 + ((u0 * n0) >> 32);
    uint64_t low = u0 * n1 + (mid & 0xffffffffu);
    return u1 * n1 + (mid >> 32) + (low >> 32);
}

/* ---- whole rows -------------------------------------------------------- */

/* Largest of x[n] (no NaN). *finite is 0 if any is NaN or infinite. */
static float sampling_max(const float *x, int32_t n, int32_t *finite)
{
    int32_t best = INT32_MIN, magnitude = 0, i;
    for (i = 0; i < n; i++) {
        /* As signed integers, with the lower bits of negative ones turned over, floats keep their order. */
        int32_t u = (int32_t)sampling_bits(x[i]);
        int32_t m = u & 0x7fffffff;
        int32_t ordered = u ^ ((u >> 31) & 0x7fffffff);
        best = ordered > best ? ordered : best;
        magnitude = m > magnitude ? m : magnitude;
    }
    *finite = magnitude < 0x7f800000;
    return sampling_float((uint32_t)(best ^ ((best >> 31) & 0x7fffffff)));
}

/* Sum of floor(2^40 w[i]) for w in [0, 1]. */
static uint64_t sampling_sum(const float *w, int32_t n)
{
    uint64_t total = 0;
    int32_t begin, i;
    for (begin = 0; begin < n; begin += SAMPLING_BLOCK) {
        int32_t end = n - begin < SAMPLING_BLOCK ? n : begin + SAMPLING_BLOCK;
        int32_t high = 0, low = 0;
        /* The 40 bits in two halves of 20, each exact in a float: not every SIMD has a
         * conversion to 64-bit integers. */
        for (i = begin; i < end; i++) {
            float scaled = w[i] * 1048576.0f;
            int32_t h = (int32_t)scaled;
            high += h;
            low += (int32_t)((scaled - (float)h) * 1048576.0f);
        }
        total += ((uint64_t)high << 20) + (uint64_t)low;
    }
    return total;
}

/* w[i] = exp(x[i] - max); returns their sum, as sampling_sum. */
static uint64_t sampling_weights(const float *restrict x, int32_t n, float max, float *restrict w)
{
    int32_t i;
    for (i = 0; i < n; i++)
        w[i] = sampling_exp(x[i] - max);
    return sampling_sum(w, n);
}

/* The same sum without keeping the weights. */
static uint64_t sampling_row_sum(const float *x, int32_t n, float max)
{
    float block[SAMPLING_BLOCK];
    uint64_t total = 0;
    int32_t i;
    for (i = 0; i < n; i += SAMPLING_BLOCK)
        total += sampling_weights(x + i, n - i < SAMPLING_BLOCK ? n - i : SAMPLING_BLOCK, max, block);
    return total;
}

/* log of sum(exp(x[i] - max)) */
static double sampling_log_sum(uint64_t total)
{
    return sampling_log((double)total * 0x1p-40);
}

/* log softmax at a logit; never below -FLT_MAX, so that it stays a number. */
static float sampling_logprob(float logit, float max, double log_sum)
{
    double logprob = ((double)logit - (double)max) - log_sum;
    return logprob < -(double)SAMPLING_FLT_MAX ? -SAMPLING_FLT_MAX : (float)logprob;
}

static int32_t sampling_first_of(const float *x, int32_t n, float value)
{
    int32_t i;
    for (i = 0; i < n - 1 && x[i] != value; i++) {
    }
    return i;
}

/* ---- candidates -------------------------------------------------------- */

/* What may still be drawn, in ascending order of ids: three parallel arrays. */
typedef struct {
    int32_t n;
    int32_t *id;
    float *logit;
    float *weight; /* exp(logit - largest logit of the row) */
} sampling_list;

/* Keeps the shortest run of candidates, by ascending key, whose weights reach
 * `target` (at least 1), or all where they never do; a candidate weighs 1 where
 * `count` is set. The order of ids is kept. A radix select over 11, 11 and 10
 * bits: no sort. */
static void sampling_cut(sampling_list *c, const uint32_t *key, int count, uint64_t target)
{
    static const int shifts[3] = {21, 10, 0};
    uint64_t bins[2048], before = 0;
    uint32_t prefix = 0, mask = 0;
    int32_t i, kept = 0;
    int level;
    target = target ? target : 1;
    for (level = 0; level < 3; level++) {
        int shift = shifts[level];
        uint32_t last = level == 2 ? 1023u : 2047u, bin = 0, used = 0;
        memset(bins, 0, sizeof bins);
        for (i = 0; i < c->n; i++) {
            if ((key[i] & mask) == prefix) {
                uint32_t b = (key[i] >> shift) & last;
                bins[b] += count ? 1 : sampling_weight(c->weight[i]);
                used = b > used ? b : used;
            }
        }
        while (bin < used && before + bins[bin] < target)
            before += bins[bin++];
        prefix |= bin << shift;
        mask |= last << shift;
    }
    for (i = 0; i < c->n; i++) {
        int keep = key[i] < prefix;
        if (key[i] == prefix && before < target) {
            before += count ? 1 : sampling_weight(c->weight[i]);
            keep = 1;
        }
        c->id[kept] = c->id[i];
        c->logit[kept] = c->logit[i];
        c->weight[kept] = c->weight[i];
        kept += keep;
    }
    c->n = kept;
}

/* Locally typical sampling (Meister et al. 2022): keeps the tokens whose surprise
 * -ln p is nearest to the entropy. max: the row's largest logit, still in the list. */
static void sampling_typical(sampling_list *c, float max, float typical_p, uint32_t *key)
{
    uint64_t total = sampling_sum(c->weight, c->n);
    double log_sum = sampling_log_sum(total), entropy = 0.0;
    float center;
    int32_t i;
    for (i = 0; i < c->n; i++) {
        double surprise = log_sum - ((double)c->logit[i] - (double)max);
        uint64_t weight = sampling_weight(c->weight[i]);
        if (weight)
            entropy += (double)weight * surprise;
    }
    entropy = entropy / (double)total;
    center = (float)(entropy - log_sum);
    for (i = 0; i < c->n; i++) {
        float distance = (max - c->logit[i]) - center;
        key[i] = sampling_bits(distance) & 0x7fffffffu; /* |distance|: its bits order it */
    }
    sampling_cut(c, key, 0, (uint64_t)((double)typical_p * (double)total));
}

static void sampling_by_logit(const sampling_list *c, uint32_t *key)
{
    int32_t i;
    for (i = 0; i < c->n; i++)
        key[i] = sampling_descending(c->logit[i]);
}

static void sampling_min_p(sampling_list *c, float min_p)
{
    float largest = 0.0f, least;
    int32_t i, kept = 0;
    for (i = 0; i < c->n; i++)
        largest = c->weight[i] > largest ? c->weight[i] : largest;
    least = min_p * largest;
    for (i = 0; i < c->n; i++) {
        int keep = c->weight[i] >= least;
        c->id[kept] = c->id[i];
        c->logit[kept] = c->logit[i];
        c->weight[kept] = c->weight[i];
        kept += keep;
    }
    c->n = kept;
}

/* 64 random bits of (seed, position); `use` tells the draws of one position apart. */
static uint64_t sampling_random(uint64_t seed, uint64_t position, uint32_t use)
{
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), use, 0};
    sampling_philox(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
    return ((uint64_t)counter[1] << 32) | counter[0];
}

/* Exclude top choices (the sampler of that name by p-e-w, 2024): of the candidates with a
 * probability >= threshold all but the last go; the order is by logit descending, ties to the
 * lowest id. Fewer than two: nothing goes. */
static void sampling_xtc(sampling_list *c, float threshold)
{
    const uint64_t least = (uint64_t)((double)threshold * (double)sampling_sum(c->weight, c->n));
    int32_t last = -1, above = 0, i, kept = 0;
    for (i = 0; i < c->n; i++) {
        if (sampling_weight(c->weight[i]) < least)
            continue;
        above++;
        if (last < 0 || c->logit[i] <= c->logit[last])
            last = i;
    }
    if (above < 2)
        return;
    for (i = 0; i < c->n; i++) {
        int keep = i == last || sampling_weight(c->weight[i]) < least;
        c->id[kept] = c->id[i];
        c->logit[kept] = c->logit[i];
        c->weight[kept] = c->weight[i];
        kept += keep;
    }
    c->n = kept;
}

static int32_t sampling_draw(sampling_list *c, float temperature, uint64_t seed, uint64_t position)
{
    int32_t finite, i;
    float max = sampling_max(c->logit, c->n, &finite);
    uint64_t sum = 0, at;
    for (i = 0; i < c->n; i++)
        c->weight[i] = sampling_exp((c->logit[i] - max) / temperature);
    at = sampling_scale(sampling_random(seed, position, 0), sampling_sum(c->weight, c->n));
    for (i = 0; i < c->n - 1; i++) {
        sum += sampling_weight(c->weight[i]);
        if (sum > at)
            break;
    }
    return c->id[i];
}

/* ---- penalties and bias ------------------------------------------------ */

/* count: int32_t[n_vocab], contents irrelevant before and after. */
static void sampling_penalize(float *x, const engine_sampling *p, const int32_t *history, int32_t n_history,
                              int32_t *count)
{
    int32_t i;
    for (i = 0; i < n_history; i++)
        count[history[i]] = 0;
    for (i = 0; i < n_history; i++)
        count[history[i]]++;
    for (i = 0; i < n_history; i++) {
        int32_t token = history[i];
        float v = x[token];
        if (count[token] == 0)
            continue;
        v = v > 0.0f ? v / p->repetition_penalty : v * p->repetition_penalty;
        v = v - (float)count[token] * p->frequency_penalty;
        v = v - p->presence_penalty;
        x[token] = v;
        count[token] = 0;
    }
}

static inline int sampling_bit(const uint32_t *set, int32_t i)
{
    return (int)(set[i >> 5] >> (i & 31) & 1);
}

/* "Don't repeat yourself" (the sampler of that name by p-e-w, 2024). Where the end of the
 * history stood before, the token that followed it there would prolong the repetition: its
 * logit loses multiplier * base^(length - allowed_length) for the longest such repetition of
 * at least allowed_length tokens. No repetition goes past a breaker.
 * breakers: bits by token id, or NULL. length: int32_t[n_vocab], contents irrelevant. */
static void sampling_dry(float *x, const engine_sampling *p, const int32_t *history, int32_t n,
                         const uint32_t *breakers, int32_t *length)
{
    const int32_t first = p->dry_penalty_last_n >= 0 && p->dry_penalty_last_n < n ? n - p->dry_penalty_last_n : 0;
    const int32_t last = n - 1;
    int32_t i;
    if (last <= first || (breakers && sampling_bit(breakers, history[last])))
        return;
    for (i = first; i < n; i++)
        length[history[i]] = 0;
    for (i = first; i < last; i++) {
        const int32_t next = history[i + 1];
        int32_t run = 1;
        if (history[i] != history[last] || (breakers && sampling_bit(breakers, next)))
            continue;
        while (run < SAMPLING_DRY_LONGEST && i - run >= first && history[i - run] == history[last - run] &&
               !(breakers && sampling_bit(breakers, history[i - run])))
            run++;
        length[next] = run > length[next] ? run : length[next];
    }
    for (i = first; i < n; i++) {
        const int32_t token = history[i];
        float penalty = p->dry_multiplier;
        int32_t k;
        if (length[token] == 0 || length[token] < p->dry_allowed_length)
            continue;
        for (k = p->dry_allowed_length; k < length[token] && penalty < SAMPLING_DRY_MOST; k++)
            penalty = penalty * p->dry_base;
        x[token] = x[token] - (penalty < SAMPLING_DRY_MOST ? penalty : SAMPLING_DRY_MOST);
        length[token] = 0;
    }
}

static int sampling_in(float x, float low, float high) /* false for NaN */
{
    return x >= low && x <= high;
}

static int sampling_valid(int32_t n_vocab, const engine_sampling *p, const int32_t *history, int32_t n_history,
                          const int32_t *bias_token, const float *bias, int32_t n_bias)
{
    int32_t i;
    if (n_vocab < 1 || n_vocab > SAMPLING_MAX_VOCAB || n_history < 0 || n_bias < 0)
        return 0;
    if (!sampling_in(p->temperature, 0.0f, SAMPLING_FLT_MAX) || p->top_k < 0 || !sampling_in(p->top_p, 0.0f, 1.0f) ||
        !sampling_in(p->min_p, 0.0f, 1.0f) || !sampling_in(p->typical_p, 0.0f, 1.0f) ||
        !sampling_in(p->repetition_penalty, 9.9e-7f, 1e3f) || !sampling_in(p->presence_penalty, -1e3f, 1e3f) ||
        !sampling_in(p->frequency_penalty, -1e3f, 1e3f) || !sampling_in(p->xtc_probability, 0.0f, 1.0f) ||
        !sampling_in(p->xtc_threshold, 0.0f, 1.0f) || !sampling_in(p->dry_multiplier, 0.0f, 1e3f))
        return 0;
    if (p->dry_multiplier > 0.0f &&
        (!sampling_in(p->dry_base, 1.0f, 1e2f) || p->dry_allowed_length < 1 || p->dry_penalty_last_n < -1))
        return 0;
    for (i = 0; i < n_history; i++)
        if (history[i] < 0 || history[i] >= n_vocab)
            return 0;
    for (i = 0; i < n_bias; i++)
        if (bias_token[i] < 0 || bias_token[i] >= n_vocab || !(bias[i] <= SAMPLING_FLT_MAX))
            return 0;
    return 1;
}

/* ---- the two entry points ---------------------------------------------- */

int32_t engine_sample(const float *logits, int32_t n_vocab, const engine_sampling *params,
                      const int32_t *history, int32_t n_history,
                      const int32_t *bias_token, const float *bias, int32_t n_bias,
                      const uint32_t *allowed, const uint32_t *breakers,
                      uint64_t position, float *scratch, engine_choice *out)
{
    const engine_sampling *p = params;
    const float *x = logits;
    float row_max, max;
    uint64_t row_total;
    sampling_list c;
    uint32_t *key;
    int32_t finite, penalized, dry, i;

    if (!sampling_valid(n_vocab, p, history, n_history, bias_token, bias, n_bias))
        return ENGINE_E_ARGUMENT;
    row_max = sampling_max(logits, n_vocab, &finite);
    if (!finite)
        return ENGINE_E_NUMERIC;

    /* scratch: logits as changed | weights | ids | keys (counts while penalties are applied) */
    c.n = n_vocab;
    c.logit = scratch;
    c.weight = scratch + n_vocab;
    c.id = (int32_t *)(void *)(scratch + 2 * (int64_t)n_vocab);
    key = (uint32_t *)(void *)(scratch + 3 * (int64_t)n_vocab);

    max = row_max;
    penalized = n_history > 0 &&
                (p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f);
    dry = n_history > 1 && p->dry_multiplier > 0.0f;
    if (penalized || dry || n_bias > 0 || allowed) {
        memcpy(c.logit, logits, (size_t)n_vocab * sizeof *logits);
        if (penalized)
            sampling_penalize(c.logit, p, history, n_history, (int32_t *)key);
        if (dry)
            sampling_dry(c.logit, p, history, n_history, breakers, (int32_t *)key);
        for (i = 0; i < n_bias; i++)
            c.logit[bias_token[i]] = c.logit[bias_token[i]] + bias[i];
        for (i = 0; allowed && i < n_vocab; i++)
            if (!sampling_bit(allowed, i))
                c.logit[i] = -INFINITY;
        x = c.logit;
        max = sampling_max(x, n_vocab, &finite);
        /* Finite in, finite out, but for overflow and where every token is forbidden. */
        if (!sampling_in(max, -SAMPLING_FLT_MAX, SAMPLING_FLT_MAX))
            return ENGINE_E_ARGUMENT;
    }

    if (p->temperature == 0.0f) {
        row_total = sampling_row_sum(logits, n_vocab, row_max);
        out->token = sampling_first_of(x, n_vocab, max);
    } else {
        row_total = sampling_weights(logits, n_vocab, row_max, c.weight);
        if (x == logits)
            memcpy(c.logit, logits, (size_t)n_vocab * sizeof *logits);
        else
            sampling_weights(x, n_vocab, max, c.weight); /* those drawn from, in place of the row's own */
        for (i = 0; i < n_vocab; i++)
            c.id[i] = i;
        if (p->top_k > 0 && p->top_k < c.n) {
            sampling_by_logit(&c, key);
            sampling_cut(&c, key, 1, (uint64_t)p->top_k);
        }
        if (p->typical_p < 1.0f)
            sampling_typical(&c, max, p->typical_p, key);
        if (p->top_p < 1.0f) {
            sampling_by_logit(&c, key);
            sampling_cut(&c, key, 0, (uint64_t)((double)p->top_p * (double)sampling_sum(c.weight, c.n)));
        }
        if (p->min_p > 0.0f)
            sampling_min_p(&c, p->min_p);
        if (p->xtc_probability > 0.0f &&
            (double)(sampling_random(p->seed, position, 1) >> 11) * 0x1p-53 < (double)p->xtc_probability)
            sampling_xtc(&c, p->xtc_threshold);
        out->token = sampling_draw(&c, p->temperature, p->seed, position);
    }
    out->logprob = sampling_logprob(logits[out->token], row_max, sampling_log_sum(row_total));
    return ENGINE_OK;
}

/* Whether logits[a] comes after logits[b] in descending order, ties to the lowest id. */
static inline int sampling_after(const float *logits, int32_t a, int32_t b)
{
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

/* heap[n]: ids with the last one of the order on top. Restores it downwards from i. */
static void sampling_sift(const float *logits, int32_t *heap, int32_t n, int32_t i)
{
    for (;;) {
        int32_t child = 2 * i + 1, t;
        if (child >= n)
            return;
        if (child + 1 < n && sampling_after(logits, heap[child + 1], heap[child]))
            child++;
        if (!sampling_after(logits, heap[child], heap[i]))
            return;
        t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

int32_t engine_top_logprobs(const float *logits, int32_t n_vocab, int32_t n,
                            int32_t *tokens, float *logprobs)
{
    int32_t finite, i;
    float max;
    double log_sum;
    if (n_vocab < 1 || n_vocab > SAMPLING_MAX_VOCAB || n < 0 || n > n_vocab)
        return ENGINE_E_ARGUMENT;
    max = sampling_max(logits, n_vocab, &finite);
    if (!finite)
        return ENGINE_E_NUMERIC;
    if (n == 0)
        return ENGINE_OK;
    for (i = 0; i < n; i++)
        tokens[i] = i;
    for (i = n / 2 - 1; i >= 0; i--)
        sampling_sift(logits, tokens, n, i);
    for (i = n; i < n_vocab; i++) {
        if (logits[i] > logits[tokens[0]]) {
            tokens[0] = i;
            sampling_sift(logits, tokens, n, 0);
        }
    }
    for (i = n - 1; i > 0; i--) {
        int32_t t = tokens[0];
        tokens[0] = tokens[i];
        tokens[i] = t;
        sampling_sift(logits, tokens, i, 0);
    }
    log_sum = sampling_log_sum(sampling_row_sum(logits, n_vocab, max));
    for (i = 0; i < n; i++)
        logprobs[i] = sampling_logprob(logits[tokens[i]], max, log_sum);
    return ENGINE_OK;
}

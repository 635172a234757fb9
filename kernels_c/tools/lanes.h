/* lanes.h: eight blocks (or sub-blocks) side by side, one in each float lane.
 *
 * A fit is a chain of additions over the weights of one block. With blocks in lanes
 * the chain is the same whether eight lanes are one register, two or eight scalars,
 * so every machine gives the same bytes.
 */
#ifndef ENGINE_LANES_H
#define ENGINE_LANES_H
#include <stdint.h>
#include <string.h>
/* Builtins rather than <immintrin.h>, which takes the compiler longer to read than all the rest. */
#if defined(__has_builtin)
#if defined(__AVX__) && __has_builtin(__builtin_shufflevector) && __has_builtin(__builtin_ia32_roundps256)
#define LANES_AVX
#endif
#endif

#define LANES 8
typedef float lanes __attribute__((vector_size(32)));
typedef int32_t mask __attribute__((vector_size(32)));

/* The largest finite half, and the spacing of the smallest ones. */
#define HALF_MAX 65504.0f
#define HALF_STEP 0x1p-24f
/* A block whose largest magnitude is below this is all zeros: half of half of HALF_STEP. */
#define TINY 0x1p-26f

static inline lanes splat(float v) { return (lanes){v, v, v, v, v, v, v, v}; }

static inline lanes pick(mask where, lanes yes, lanes no)
{
    return (lanes)(((mask)yes & where) | ((mask)no & ~where));
}

static inline lanes magnitude(lanes v) { return (lanes)((mask)v & 0x7fffffff); }

#if defined(LANES_AVX)
static inline lanes clamp(lanes v, lanes low, lanes high)
{
    return __builtin_ia32_minps256(__builtin_ia32_maxps256(v, low), high);
}
/* To the nearest integer, ties to even, without exceptions. */
static inline lanes nearest(lanes v) { return __builtin_ia32_roundps256(v, 8); }
#else
static inline lanes clamp(lanes v, lanes low, lanes high)
{
    v = pick(v > low, v, low);
    return pick(v < high, v, high);
}
/* To the nearest integer, ties to even; |v| <= 2^22. */
static inline lanes nearest(lanes v)
{
    const lanes shift = splat(0x1.8p23f);
    return (v + shift) - shift;
}
#endif

/* 1 / v, and 0 where v is 0. */
static inline lanes reciprocal(lanes v)
{
    mask zero = v == splat(0.0f);
    return pick(~zero, splat(1.0f) / pick(zero, splat(1.0f), v), splat(0.0f));
}

/* v as a half can hold it: nearest, ties to even, at most HALF_MAX in magnitude; below the
 * normal halves away from zero, so that a tiny scale never clips its block. */
static inline lanes half_scale(lanes v)
{
    v = clamp(v, splat(-HALF_MAX), splat(HALF_MAX));
    mask bits = (mask)v;
    lanes normal = (lanes)((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff);
    lanes size = magnitude(v);
    lanes steps = (size + splat(0.75f)) - splat(0.75f);
    steps += pick(steps < size, splat(HALF_STEP), splat(0.0f));
    lanes small = (lanes)((mask)steps | (bits & (int32_t)0x80000000));
    return pick(size < splat(0x1p-14f), small, normal);
}

/* Same, one value. */
static inline float half_scale_of(float v) { return half_scale(splat(v))[0]; }

/* The bits of a half that v is exactly. */
static inline uint16_t half_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    uint32_t sign = (bits >> 16) & 0x8000, exponent = (bits >> 23) & 0xff, fraction = bits & 0x7fffff;
    if (exponent == 0)
        return (uint16_t)sign;
    if (exponent >= 113)
        return (uint16_t)(sign | (exponent - 112) << 10 | fraction >> 13);
    return (uint16_t)(sign | (fraction | 0x800000) >> (126 - exponent));
}

static inline float half_value(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
    float scaled;
    if (bits >= 0x7c00u << 13) {
        bits |= 0x7f800000 | sign;
        memcpy(&scaled, &bits, 4);
        return scaled;
    }
    memcpy(&scaled, &bits, 4);
    scaled *= 0x1p112f;
    memcpy(&bits, &scaled, 4);
    bits |= sign;
    memcpy(&scaled, &bits, 4);
    return scaled;
}

/* Lane j: 4 pairs, 2 pairs, 1 pair. */
static inline float sum_of(lanes v)
{
    float four[4], two[2];
    for (int j = 0; j < 4; j++)
        four[j] = v[j] + v[j + 4];
    for (int j = 0; j < 2; j++)
        two[j] = four[j] + four[j + 2];
    return two[0] + two[1];
}

#if defined(LANES_AVX)
static inline void transpose8(const float *const from[LANES], int i, lanes *out)
{
    lanes r[8], t[8];
    for (int l = 0; l < 8; l++)
        memcpy(&r[l], from[l] + i, sizeof r[l]);
    for (int l = 0; l < 8; l += 2) {
        t[l] = __builtin_shufflevector(r[l], r[l + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[l + 1] = __builtin_shufflevector(r[l], r[l + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int l = 0; l < 8; l += 4) {
        r[l] = __builtin_shufflevector(t[l], t[l + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        r[l + 1] = __builtin_shufflevector(t[l], t[l + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        r[l + 2] = __builtin_shufflevector(t[l + 1], t[l + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        r[l + 3] = __builtin_shufflevector(t[l + 1], t[l + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int l = 0; l < 4; l++) {
        out[l] = __builtin_shufflevector(r[l], r[l + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        out[l + 4] = __builtin_shufflevector(r[l], r[l + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#else
static inline void transpose8(const float *const from[LANES], int i, lanes *out)
{
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < LANES; l++)
            out[j][l] = from[l][i + j];
}
#endif

/* out[i] lane l = from[l][i], i < n; n is a multiple of 8. */
static inline void load_lanes(const float *const from[LANES], int n, lanes *out)
{
    for (int i = 0; i < n; i += 8)
        transpose8(from, i, out + i);
}

/* The bits of the largest magnitude of n lanes; NaN and infinity are larger than any number. */
static inline int32_t largest_bits(const lanes *x, int n)
{
    mask most = {0};
    for (int i = 0; i < n; i++) {
        mask bits = (mask)x[i] & 0x7fffffff, more = bits > most;
        most = (bits & more) | (most & ~more);
    }
    int32_t largest = 0;
    for (int l = 0; l < LANES; l++)
        largest = most[l] > largest ? most[l] : largest;
    return largest;
}

/* QUANTIZE_OK, or what is wrong with weights of which the largest magnitude has these bits. */
static inline int32_t check_bits(int32_t largest, float limit)
{
    float v;
    memcpy(&v, &largest, 4);
    if (largest >= 0x7f800000)
        return 2; /* QUANTIZE_E_NONFINITE */
    return v > limit ? 3 /* QUANTIZE_E_RANGE */ : 0;
}

/* A column of equal importance. */
static const float ONES[256] = {
#define ONES16 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
    ONES16, ONES16, ONES16, ONES16, ONES16, ONES16, ONES16, ONES16,
    ONES16, ONES16, ONES16, ONES16, ONES16, ONES16, ONES16, ONES16};

/* codes[i] = nearest(clamp(x[i] * inverse + offset, low, high)), in the order of the row. */
static inline void round_codes(const float *x, int n, float inverse, float offset, float low, float high,
                               float *codes)
{
    for (int i = 0; i < n; i += LANES) {
        lanes v;
        memcpy(&v, x + i, sizeof v);
        v = nearest(clamp(v * splat(inverse) + splat(offset), splat(low), splat(high)));
        memcpy(codes + i, &v, sizeof v);
    }
}

#endif

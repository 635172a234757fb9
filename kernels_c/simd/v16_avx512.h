/* v16_avx512.h: 16 float lanes as one zmm register; see v16_avx2.h. */
#include <immintrin.h>

typedef __m512 v16;

#define V16 static inline __attribute__((always_inline))

V16 v16 v16_zero(void) { return _mm512_setzero_ps(); }
V16 v16 v16_set1(float x) { return _mm512_set1_ps(x); }
V16 v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
V16 void v16_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
V16 v16 v16_add(v16 x, v16 y) { return _mm512_add_ps(x, y); }
V16 v16 v16_sub(v16 x, v16 y) { return _mm512_sub_ps(x, y); }
V16 v16 v16_mul(v16 x, v16 y) { return _mm512_mul_ps(x, y); }
V16 v16 v16_div(v16 x, v16 y) { return _mm512_div_ps(x, y); }
/* x > y ? x : y: the second where either is NaN. */
V16 v16 v16_max(v16 x, v16 y) { return _mm512_max_ps(x, y); }
V16 v16 v16_or(v16 x, v16 y)
{
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(x), _mm512_castps_si512(y)));
}
V16 v16 v16_and(v16 x, v16 y)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_castps_si512(y)));
}
V16 v16 v16_fma(v16 x, v16 y, v16 z) { return _mm512_fmadd_ps(x, y, z); }

V16 v16 v16_abs(v16 x) { return v16_and(x, v16_set1(bits_to_float(0x7fffffffu))); }

/* x < y ? yes : no, lane by lane (no where either is NaN). */
V16 v16 v16_if_less(v16 x, v16 y, v16 yes, v16 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes);
}

/* Lanes from..to-1 of x, `other` elsewhere. */
V16 v16 v16_keep(v16 x, int32_t from, int32_t to, v16 other)
{
    uint32_t below_to = to >= 16 ? 0xffffu : to <= 0 ? 0u : (1u << to) - 1u;
    uint32_t below_from = from >= 16 ? 0xffffu : from <= 0 ? 0u : (1u << from) - 1u;
    return _mm512_mask_blend_ps((__mmask16)(below_to & ~below_from), other, x);
}

V16 v16 v16_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

V16 v16 v16_load_bf16(const uint16_t *p)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

V16 v16 v16_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

V16 void v16_store_f16(uint16_t *p, v16 x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Rounds half to even to int8; lanes must lie in -127.5 .. 127.5. */
V16 __m128i v16_to_i8(v16 x) { return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)); }

/* x times 2^n, in two exact factors; n is held in the low bits of shifted = n + EXP_ROUNDER. */
V16 v16 v16_times_power(v16 x, v16 shifted)
{
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000));
    __m512i half = _mm512_srai_epi32(n, 1);
    __m512i bias = _mm512_set1_epi32(127);
    __m512i first = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    __m512i second = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(n, half), bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_castsi512_ps(first)), _mm512_castsi512_ps(second));
}

/* Lane j += lane j+8, then +4, +2, +1. */
V16 float v16_tree_sum(v16 x)
{
    __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), upper);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The largest lane; lanes are no NaN. */
V16 float v16_largest(v16 x)
{
    __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), upper);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* v16_avx2.h: 16 float lanes as two ymm registers.
 *
 * The same names exist in v16_avx512.h; a kernel written over them gives the same
 * bits on both, because every operation acts on each lane alone and rounds once. */
#include <immintrin.h>

typedef struct {
    __m256 a, b;   /* lanes 0..7, 8..15 */
} v16;

#define V16 static inline __attribute__((always_inline))
#define V16_EACH(op, x, y) ((v16){op((x).a, (y).a), op((x).b, (y).b)})

V16 v16 v16_zero(void) { return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
V16 v16 v16_set1(float x) { return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
V16 v16 v16_load(const float *p) { return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
V16 void v16_store(float *p, v16 x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
V16 v16 v16_add(v16 x, v16 y) { return V16_EACH(_mm256_add_ps, x, y); }
V16 v16 v16_sub(v16 x, v16 y) { return V16_EACH(_mm256_sub_ps, x, y); }
V16 v16 v16_mul(v16 x, v16 y) { return V16_EACH(_mm256_mul_ps, x, y); }
V16 v16 v16_div(v16 x, v16 y) { return V16_EACH(_mm256_div_ps, x, y); }
/* x > y ? x : y: the second where either is NaN. */
V16 v16 v16_max(v16 x, v16 y) { return V16_EACH(_mm256_max_ps, x, y); }
V16 v16 v16_or(v16 x, v16 y) { return V16_EACH(_mm256_or_ps, x, y); }
V16 v16 v16_and(v16 x, v16 y) { return V16_EACH(_mm256_and_ps, x, y); }
V16 v16 v16_fma(v16 x, v16 y, v16 z) { return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }

V16 v16 v16_abs(v16 x) { return v16_and(x, v16_set1(bits_to_float(0x7fffffffu))); }

/* x < y ? yes : no, lane by lane (no where either is NaN). */
V16 v16 v16_if_less(v16 x, v16 y, v16 yes, v16 no)
{
    return (v16){_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                 _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}

/* Lanes from..to-1 of x, `other` elsewhere. */
V16 v16 v16_keep(v16 x, int32_t from, int32_t to, v16 other)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i lane8 = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    __m256i low = _mm256_set1_epi32(from - 1), high = _mm256_set1_epi32(to);
    __m256i a = _mm256_and_si256(_mm256_cmpgt_epi32(lane, low), _mm256_cmpgt_epi32(high, lane));
    __m256i b = _mm256_and_si256(_mm256_cmpgt_epi32(lane8, low), _mm256_cmpgt_epi32(high, lane8));
    return (v16){_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(a)),
                 _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(b))};
}

V16 v16 v16_load_f16(const uint16_t *p)
{
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

V16 v16 v16_load_bf16(const uint16_t *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}

V16 v16 v16_load_i8(const int8_t *p)
{
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8))))};
}

V16 void v16_store_f16(uint16_t *p, v16 x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

/* Rounds half to even to int8; lanes must lie in -127.5 .. 127.5. */
V16 __m128i v16_to_i8(v16 x)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/* x times 2^n, in two exact factors; n is held in the low bits of shifted = n + EXP_ROUNDER. */
V16 __m256 v16_half_times_power(__m256 x, __m256 shifted)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(n, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

V16 v16 v16_times_power(v16 x, v16 shifted)
{
    return (v16){v16_half_times_power(x.a, shifted.a), v16_half_times_power(x.b, shifted.b)};
}

/* Lane j += lane j+8, then +4, +2, +1. */
V16 float v16_tree_sum(v16 x)
{
    __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The largest lane; lanes are no NaN. */
V16 float v16_largest(v16 x)
{
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

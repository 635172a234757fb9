/* avx512_emulated.h: the AVX-512 operations that the kernels use, over AVX2 and plain C, to prove the
 * kernels on CPUs without AVX-512. Included before them, it takes over the intrinsics' names.
 *
 * Float operations are AVX2's on each half, so they round the same; integers are GCC vectors. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define V512 static inline __attribute__((always_inline))
typedef int32_t v512_i32 __attribute__((vector_size(64)));
typedef uint32_t v512_u32 __attribute__((vector_size(64)));
typedef uint16_t v512_u16 __attribute__((vector_size(64)));
typedef uint8_t v512_u8 __attribute__((vector_size(64)));
typedef uint64_t v512_u64 __attribute__((vector_size(64)));
typedef union {
    __m512i i;
    __m512 f;
    __m512d d;
    __m256i yi[2];
    __m256 yf[2];
    __m256d yd[2];
    int64_t q[8];
    int32_t w[16];
    int16_t h[32];
    uint8_t b[64];
} v512;

/* A float operation of two operands, of three, an integer operation, on both halves. */
#define V512_FLOAT(name)                                                              \
    V512 __m512 v512_##name(__m512 x, __m512 y)                                       \
    {                                                                                 \
        const v512 a = {.f = x}, b = {.f = y};                                        \
        return (v512){.yf = {_mm256_##name(a.yf[0], b.yf[0]), _mm256_##name(a.yf[1], b.yf[1])}}.f; \
    }
V512_FLOAT(add_ps)
V512_FLOAT(sub_ps)
V512_FLOAT(mul_ps)
V512_FLOAT(div_ps)
V512_FLOAT(max_ps)
#undef V512_FLOAT
V512 __m512 v512_fmadd_ps(__m512 x, __m512 y, __m512 z)
{
    const v512 a = {.f = x}, b = {.f = y}, c = {.f = z};
    return (v512){.yf = {_mm256_fmadd_ps(a.yf[0], b.yf[0], c.yf[0]), _mm256_fmadd_ps(a.yf[1], b.yf[1], c.yf[1])}}.f;
}
#define V512_INTEGER(name, of_half)                                                   \
    V512 __m512i v512_##name(__m512i x, __m512i y)                                    \
    {                                                                                 \
        const v512 a = {.i = x}, b = {.i = y};                                        \
        return (v512){.yi = {of_half(a.yi[0], b.yi[0]), of_half(a.yi[1], b.yi[1])}}.i; \
    }
V512_INTEGER(unpacklo_epi8, _mm256_unpacklo_epi8)
V512_INTEGER(unpackhi_epi8, _mm256_unpackhi_epi8)
V512_INTEGER(shuffle_epi8, _mm256_shuffle_epi8)
V512_INTEGER(maddubs_epi16, _mm256_maddubs_epi16)
V512_INTEGER(mullo_epi16, _mm256_mullo_epi16)
V512_INTEGER(mullo_epi32, _mm256_mullo_epi32)
#undef V512_INTEGER

V512 __m512i v512_add_epi32(__m512i x, __m512i y) { return (__m512i)((v512_u32)x + (v512_u32)y); }
V512 __m512i v512_sub_epi32(__m512i x, __m512i y) { return (__m512i)((v512_u32)x - (v512_u32)y); }
V512 __m512i v512_sub_epi16(__m512i x, __m512i y) { return (__m512i)((v512_u16)x - (v512_u16)y); }
V512 __m512i v512_sub_epi8(__m512i x, __m512i y) { return (__m512i)((v512_u8)x - (v512_u8)y); }
V512 __m512i v512_and(__m512i x, __m512i y) { return (__m512i)((v512_u64)x & (v512_u64)y); }
V512 __m512i v512_or(__m512i x, __m512i y) { return (__m512i)((v512_u64)x | (v512_u64)y); }
V512 __m512i v512_xor(__m512i x, __m512i y) { return (__m512i)((v512_u64)x ^ (v512_u64)y); }
V512 __m512i v512_slli_epi16(__m512i x, uint32_t n) { return (__m512i)((v512_u16)x << (uint16_t)n); }
V512 __m512i v512_srli_epi16(__m512i x, uint32_t n) { return (__m512i)((v512_u16)x >> (uint16_t)n); }
V512 __m512i v512_slli_epi32(__m512i x, uint32_t n) { return (__m512i)((v512_u32)x << n); }
V512 __m512i v512_srai_epi32(__m512i x, uint32_t n) { return (__m512i)((v512_i32)x >> (int32_t)n); }

/* Bit i of `table` is the result where the bits of x, y, z spell i. */
V512 __m512i v512_ternarylogic(__m512i x, __m512i y, __m512i z, int32_t table)
{
    v512_u64 a = (v512_u64)x, b = (v512_u64)y, c = (v512_u64)z, result = a ^ a;
    for (int32_t i = 0; i < 8; ++i)
        if (table >> i & 1)
            result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return (__m512i)result;
}

V512 __m512i v512_permutex2var_epi64(__m512i x, __m512i index, __m512i y)
{
    const v512 a = {.i = x}, at = {.i = index}, b = {.i = y};
    v512 out;
    for (int32_t i = 0; i < 8; ++i)
        out.q[i] = at.q[i] & 8 ? b.q[at.q[i] & 7] : a.q[at.q[i] & 7];
    return out.i;
}

/* Calls, because the kernels unroll hundreds. */
#define V512_CALL static __attribute__((noinline))
V512_CALL __m512i v512_dpwssd_epi32(__m512i total, __m512i x, __m512i y)
{
    const v512 a = {.i = x}, b = {.i = y};
    return v512_add_epi32(total, (v512){.yi = {_mm256_madd_epi16(a.yi[0], b.yi[0]), _mm256_madd_epi16(a.yi[1], b.yi[1])}}.i);
}
V512_CALL __m512i v512_dpbusd_epi32(__m512i total, __m512i u, __m512i s)
{
    const v512 a = {.i = u}, b = {.i = s};
    v512 out = {.i = total};
    for (int32_t i = 0; i < 16; ++i) {
        int32_t sum = 0;
        for (int32_t j = 0; j < 4; ++j)
            sum += a.b[4 * i + j] * (int8_t)b.b[4 * i + j];
        out.w[i] = (int32_t)((uint32_t)out.w[i] + (uint32_t)sum);
    }
    return out.i;
}

V512 __m512 v512_cvtepi32_ps(__m512i x)
{
    const v512 a = {.i = x};
    return (v512){.yf = {_mm256_cvtepi32_ps(a.yi[0]), _mm256_cvtepi32_ps(a.yi[1])}}.f;
}
V512 __m512i v512_cvtps_epi32(__m512 x)
{
    const v512 a = {.f = x};
    return (v512){.yi = {_mm256_cvtps_epi32(a.yf[0]), _mm256_cvtps_epi32(a.yf[1])}}.i;
}
V512 __m512 v512_cvtph_ps(__m256i x)
{
    return (v512){.yf = {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))}}.f;
}
V512 __m256i v512_cvtps_ph_nearest(__m512 x)
{
    const v512 a = {.f = x};
    return _mm256_set_m128i(_mm256_cvtps_ph(a.yf[1], _MM_FROUND_TO_NEAREST_INT), _mm256_cvtps_ph(a.yf[0], _MM_FROUND_TO_NEAREST_INT));
}
V512 __m512i v512_cvtepu8_epi32(__m128i x)
{
    return (v512){.yi = {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))}}.i;
}
V512 __m512i v512_cvtepi8_epi32(__m128i x)
{
    return (v512){.yi = {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))}}.i;
}
V512 __m512i v512_cvtepu8_epi16(__m256i x)
{
    return (v512){.yi = {_mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1))}}.i;
}
V512 __m512i v512_cvtepu16_epi32(__m256i x)
{
    return (v512){.yi = {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))}}.i;
}
V512 __m128i v512_cvtepi32_epi8(__m512i x)
{
    const v512 a = {.i = x};
    uint8_t out[16];
    for (int32_t i = 0; i < 16; ++i)
        out[i] = (uint8_t)a.w[i];
    return _mm_loadu_si128((const __m128i *)out);
}

V512 __mmask16 v512_cmp_less(__m512 x, __m512 y)
{
    const v512 a = {.f = x}, b = {.f = y};
    int32_t low = _mm256_movemask_ps(_mm256_cmp_ps(a.yf[0], b.yf[0], _CMP_LT_OQ));
    return (__mmask16)(low | _mm256_movemask_ps(_mm256_cmp_ps(a.yf[1], b.yf[1], _CMP_LT_OQ)) << 8);
}
V512 __m512 v512_mask_blend_ps(__mmask16 mask, __m512 x, __m512 y)
{
    const v512 a = {.f = x}, b = {.f = y};
    v512 out;
    for (int32_t i = 0; i < 16; ++i)
        out.w[i] = mask >> i & 1 ? b.w[i] : a.w[i];
    return out.f;
}

V512 __m512i v512_load(const void *p)
{
    v512 x;
    memcpy(&x, p, sizeof x);
    return x.i;
}
V512 void v512_store(void *p, __m512i x) { memcpy(p, &x, sizeof x); }
V512 __m512 v512_load_ps(const void *p) { return (__m512)v512_load(p); }
V512 void v512_store_ps(void *p, __m512 x) { v512_store(p, (__m512i)x); }
V512 __m512i v512_set1_epi8(char x) { return (v512){.yi = {_mm256_set1_epi8(x), _mm256_set1_epi8(x)}}.i; }
V512 __m512i v512_set1_epi16(int16_t x) { return (v512){.yi = {_mm256_set1_epi16(x), _mm256_set1_epi16(x)}}.i; }
V512 __m512i v512_set1_epi32(int32_t x) { return (v512){.yi = {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}.i; }
V512 __m512 v512_set1_ps(float x) { return (v512){.yf = {_mm256_set1_ps(x), _mm256_set1_ps(x)}}.f; }
V512 __m256d v512_upper_half(__m512d x) { return (v512){.d = x}.yd[1]; }
V512 __m256 v512_lower_half(__m512 x) { return (v512){.f = x}.yf[0]; }

#define _mm512_add_ps v512_add_ps
#define _mm512_sub_ps v512_sub_ps
#define _mm512_mul_ps v512_mul_ps
#define _mm512_div_ps v512_div_ps
#define _mm512_max_ps v512_max_ps
#define _mm512_fmadd_ps v512_fmadd_ps
#define _mm512_shuffle_epi8 v512_shuffle_epi8
#define _mm512_unpacklo_epi8 v512_unpacklo_epi8
#define _mm512_unpackhi_epi8 v512_unpackhi_epi8
#define _mm512_maddubs_epi16 v512_maddubs_epi16
#define _mm512_mullo_epi16 v512_mullo_epi16
#define _mm512_mullo_epi32 v512_mullo_epi32
#define _mm512_add_epi32 v512_add_epi32
#define _mm512_sub_epi32 v512_sub_epi32
#define _mm512_sub_epi16 v512_sub_epi16
#define _mm512_sub_epi8 v512_sub_epi8
#define _mm512_and_si512 v512_and
#define _mm512_or_si512 v512_or
#define _mm512_xor_si512 v512_xor
#define _mm512_slli_epi16 v512_slli_epi16
#define _mm512_srli_epi16 v512_srli_epi16
#define _mm512_slli_epi32 v512_slli_epi32
#define _mm512_srai_epi32 v512_srai_epi32
#define _mm512_ternarylogic_epi32 v512_ternarylogic
#define _mm512_permutex2var_epi64 v512_permutex2var_epi64
#define _mm512_dpwssd_epi32 v512_dpwssd_epi32
#define _mm512_dpbusd_epi32 v512_dpbusd_epi32
#define _mm512_cvtepi32_ps v512_cvtepi32_ps
#define _mm512_cvtps_epi32 v512_cvtps_epi32
#define _mm512_cvtph_ps v512_cvtph_ps
#define _mm512_cvtps_ph(x, rounding) v512_cvtps_ph_nearest(x)
#define _mm512_cvtepu8_epi32 v512_cvtepu8_epi32
#define _mm512_cvtepi8_epi32 v512_cvtepi8_epi32
#define _mm512_cvtepu8_epi16 v512_cvtepu8_epi16
#define _mm512_cvtepu16_epi32 v512_cvtepu16_epi32
#define _mm512_cvtepi32_epi8 v512_cvtepi32_epi8
#define _mm512_cmp_ps_mask(x, y, less) v512_cmp_less(x, y)
#define _mm512_mask_blend_ps v512_mask_blend_ps
#define _mm512_loadu_si512 v512_load
#define _mm512_storeu_si512 v512_store
#define _mm512_loadu_ps v512_load_ps
#define _mm512_storeu_ps v512_store_ps
#define _mm512_set1_epi8 v512_set1_epi8
#define _mm512_set1_epi16 v512_set1_epi16
#define _mm512_set1_epi32 v512_set1_epi32
#define _mm512_set1_ps v512_set1_ps
#define _mm512_setr_epi64(...) ((v512){.q = {__VA_ARGS__}}.i)
#define _mm512_setzero_si512() v512_set1_epi32(0)
#define _mm512_setzero_ps() v512_set1_ps(0.0f)
#define _mm512_castsi512_ps(x) ((__m512)(x))
#define _mm512_castps_si512(x) ((__m512i)(x))
#define _mm512_castps_pd(x) ((__m512d)(x))
#define _mm512_castps512_ps256 v512_lower_half
#define _mm512_extractf64x4_pd(x, half) v512_upper_half(x)

/* vnni_256.c: the two products of VNNI in registers of 256 bits, in the form that the build asks for.
 *
 * Client CPUs have them in the VEX encoding (AVX-VNNI), CPUs with AVX-512 in the EVEX one. With
 * EMULATED_VNNI they are composed of AVX2's products, to prove kernels where the CPU has neither.
 *
 * dot_4: total + sum of four products of codes (unsigned) and activations (signed), in each int32 lane.
 * dot_2: total + sum of two products of int16. Neither can saturate. */
#if defined(EMULATED_VNNI)
/* Bytes widen to int16 in two steps, those with k even and those with k odd. A call each, because the
 * kernels unroll hundreds. */
static __attribute__((noinline)) __m256i dot_4(__m256i total, __m256i codes, __m256i x)
{
    const __m256i low = _mm256_set1_epi16(255);
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(total, _mm256_add_epi32(even, odd));
}
V16 __m256i dot_2(__m256i total, __m256i x, __m256i y) { return _mm256_add_epi32(total, _mm256_madd_epi16(x, y)); }
#elif defined(__AVXVNNI__)
V16 __m256i dot_4(__m256i total, __m256i codes, __m256i x) { return _mm256_dpbusd_avx_epi32(total, codes, x); }
V16 __m256i dot_2(__m256i total, __m256i x, __m256i y) { return _mm256_dpwssd_avx_epi32(total, x, y); }
#else
V16 __m256i dot_4(__m256i total, __m256i codes, __m256i x) { return _mm256_dpbusd_epi32(total, codes, x); }
V16 __m256i dot_2(__m256i total, __m256i x, __m256i y) { return _mm256_dpwssd_epi32(total, x, y); }
#endif

/* Runs tile(tokens, t, first) over nt tokens; `tokens` and `first`, whether these are the first six,
 * are constants in each call. */
#define FOR_TILES_OF_SIX(most, nt, tile)                            \
    do {                                                            \
        _Static_assert((most) == 6, "tiles are of six tokens");     \
        int32_t t = 0;                                              \
        if ((nt) >= 6) {                                            \
            tile(6, 0, 1);                                          \
            t = 6;                                                  \
        }                                                           \
        for (; t + 6 <= (nt); t += 6)                               \
            tile(6, t, 0);                                          \
        if ((nt) - t >= 4) {                                        \
            tile(4, t, 0);                                          \
            t += 4;                                                 \
        }                                                           \
        if ((nt) - t >= 2) {                                        \
            tile(2, t, 0);                                          \
            t += 2;                                                 \
        }                                                           \
        if (t < (nt))                                               \
            tile(1, t, 0);                                          \
    } while (0)

/* q4_k_avx512.c: Q4_K panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * A sub-block of 32 k is eight vpdpbusd; its int32 sum is multiplied by the scale and added. The
 * minima of two sub-blocks are one vpdpwssd: lanes (min 2j, min 2j+1) times (sum 2j, sum 2j+1). */
#define Q4_K_TOKENS 8        /* a tile */
_Static_assert((int64_t)256 * 15 * 63 * 127 <= INT32_MAX, "a block of Q4_K fits in int32");

typedef opened_scales_of_6 q4_k_opened;

V16 q4_k_opened q4_k_open(const uint8_t *panel, int32_t number)
{
    const packed_q4_k *b = (const packed_q4_k *)panel + number;
    return open_scales_of_6(b->low, b->high);
}

V16 void q4_k_tile(const uint8_t *panel, int32_t number, const q4_k_opened *s, int32_t tokens, const int8_t *codes,
                   const int16_t *sums, const float *scales, float *acc)
{
    const packed_q4_k *b = (const packed_q4_k *)panel + number;
    __m512i total[Q4_K_TOKENS], minima[Q4_K_TOKENS];
    for (int32_t j = 0; j < 4; ++j) {
        __m512i low[Q4_K_TOKENS], high[Q4_K_TOKENS];
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            low[t] = high[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            __m512i q = load_512(b->q[8 * j + c]);
            prefetch_for(tokens, b->q[8 * j + c]);
            __m512i q0 = byte_field(q, 0, 15), q1 = byte_field(q, 4, 15);
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t) {
                const int8_t *x = codes + t * 256 + j * 64 + c * 4;
                low[t] = dot_4(low[t], q0, x);
                high[t] = dot_4(high[t], q1, x + 32);
            }
        }
        __m512i scale0 = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)s->scale[2 * j]));
        __m512i scale1 = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)s->scale[2 * j + 1]));
        __m512i mins = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)s->min[j]));
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            __m512i both = _mm512_add_epi32(_mm512_mullo_epi32(low[t], scale0), _mm512_mullo_epi32(high[t], scale1));
            total[t] = j ? _mm512_add_epi32(total[t], both) : both;
            minima[t] = _mm512_dpwssd_epi32(j ? minima[t] : _mm512_setzero_si512(), mins,
                                            broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j));
        }
    }
    add_with_minima(total, minima, tokens, b->d, b->dmin, scales, acc);
}

WALK_256(q4_k, Q4_K_TOKENS)

/* q2_k_avx512.c: Q2_K panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * A group of 16 k is four vpdpbusd; its int32 sum is multiplied by the scale and added. The sums of 16
 * activations that minima meet are had times -32 (SUMS_OF_16). */
#define Q2_K_TOKENS 8        /* a tile */
_Static_assert((int64_t)256 * 15 * 127 * 32 <= INT32_MAX, "32 times the minima of a block of Q2_K fit in int32");

typedef struct {
    const packed_q2_k *b;
} q2_k_opened;

V16 q2_k_opened q2_k_open(const uint8_t *panel, int32_t number)
{
    return (q2_k_opened){(const packed_q2_k *)panel + number};
}

V16 void q2_k_tile(const uint8_t *panel, int32_t number, const q2_k_opened *opened, int32_t tokens, const int8_t *codes,
                   const int16_t *sums, const float *scales, float *acc)
{
    const packed_q2_k *b = opened->b;
    (void)panel, (void)number;
    __m512i total[Q2_K_TOKENS], minima[Q2_K_TOKENS];
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = minima[t] = _mm512_setzero_si512();
    for (int32_t g = 0; g < 16; ++g) {
        __m512i q = load_512(b->q[g]), part[Q2_K_TOKENS];
        prefetch_for(tokens, b->q[g]);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int32_t i = 0; i < 4; ++i)
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t)
                part[t] = dot_4(part[t], byte_field(q, 2 * i, 3), codes + t * 256 + g * 16 + i * 4);
        __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)b->scales[g]));
        __m512i scale = byte_field(both, 0, 15), min = byte_field(both, 4, 15);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            __m512i sum = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_16 + 2 * g);
            total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(part[t], scale));
            minima[t] = _mm512_sub_epi32(minima[t], _mm512_mullo_epi32(sum, min));
        }
    }
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        minima[t] = _mm512_srai_epi32(minima[t], 5);
    add_with_minima(total, minima, tokens, b->d, b->dmin, scales, acc);
}

WALK_256(q2_k, Q2_K_TOKENS)

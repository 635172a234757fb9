/* q5_k_avx512.c: Q5_K panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * A sub-block of 32 k is eight vpdpbusd; its int32 sum is multiplied by the scale and added. Minima are
 * those of Q4_K. */
#define Q5_K_TOKENS 8        /* a tile */
_Static_assert((int64_t)256 * 31 * 63 * 127 <= INT32_MAX, "a block of Q5_K fits in int32");

typedef opened_scales_of_6 q5_k_opened;

V16 q5_k_opened q5_k_open(const uint8_t *panel, int32_t number)
{
    const packed_q5_k *b = (const packed_q5_k *)panel + number;
    return open_scales_of_6(b->low, b->high);
}

V16 void q5_k_tile(const uint8_t *panel, int32_t number, const q5_k_opened *s, int32_t tokens, const int8_t *codes,
                   const int16_t *sums, const float *scales, float *acc)
{
    const packed_q5_k *b = (const packed_q5_k *)panel + number;
    __m512i total[Q5_K_TOKENS], minima[Q5_K_TOKENS];
    for (int32_t j = 0; j < 8; ++j) {
        __m512i part[Q5_K_TOKENS], top = load_512(b->qh[j]);
        prefetch_for(tokens, b->qh[j]);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int32_t i = 0; i < 4; ++i) {
            __m512i low = load_512(b->ql[j][i]);
            prefetch_for(tokens, b->ql[j][i]);
            __m512i q0 = byte_join(byte_field(low, 0, 15), top, 4 - 2 * i, 16);
            __m512i q1 = byte_join(byte_field(low, 4, 15), top, 3 - 2 * i, 16);
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t) {
                const int8_t *x = codes + t * 256 + j * 32 + i * 8;
                part[t] = dot_4(dot_4(part[t], q0, x), q1, x + 4);
            }
        }
        __m512i scale = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)s->scale[j]));
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            __m512i scaled = _mm512_mullo_epi32(part[t], scale);
            total[t] = j ? _mm512_add_epi32(total[t], scaled) : scaled;
        }
    }
#pragma GCC unroll 4
    for (int32_t j = 0; j < 4; ++j) {
        __m512i mins = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)s->min[j]));
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            minima[t] = _mm512_dpwssd_epi32(j ? minima[t] : _mm512_setzero_si512(), mins,
                                            broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j));
    }
    add_with_minima(total, minima, tokens, b->d, b->dmin, scales, acc);
}

WALK_256(q5_k, Q5_K_TOKENS)

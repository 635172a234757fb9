/* q3_k_avx512.c: Q3_K panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * A group of 16 k is four vpdpbusd of unsigned codes that start from -4 times the sum of its activations
 * (SUMS_OF_16 are -32 times it), so that the int32 sum is that of (code - 4). */
#define Q3_K_TOKENS 8        /* a tile */
_Static_assert((int64_t)256 * 4 * 32 * 127 <= INT32_MAX, "a block of Q3_K fits in int32");

typedef struct {
    const packed_q3_k *b;
    const uint16_t *d;
} q3_k_opened;

V16 q3_k_opened q3_k_open(const uint8_t *panel, int32_t number)
{
    return (q3_k_opened){block_q3_k(panel, number), scales_q3_k(panel, number)};
}

V16 __m512i q3_k_scales(const packed_q3_k *b, int32_t g)
{
    __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)b->scales[g % 8]));
    __m512i high = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)b->scales[8 + g % 4]));
    low = byte_field(low, g / 8 * 4, 15);
    high = byte_field(high, g / 4 * 2, 3);
    return _mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32));
}

V16 void q3_k_tile(const uint8_t *panel, int32_t number, const q3_k_opened *opened, int32_t tokens, const int8_t *codes,
                   const int16_t *sums, const float *scales, float *acc)
{
    const packed_q3_k *b = opened->b;
    (void)panel, (void)number;
    __m512i total[Q3_K_TOKENS];
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int32_t g = 0; g < 16; ++g) {
        __m512i q = load_512(b->q[g]), top = load_512(b->high[g / 2]), part[Q3_K_TOKENS];
        prefetch_for(tokens, b->q[g]);
        prefetch_for(tokens, b->high[g / 2]);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = _mm512_srai_epi32(broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_16 + 2 * g), 3);
#pragma GCC unroll 4
        for (int32_t i = 0; i < 4; ++i) {
            __m512i code = byte_join(byte_field(q, 2 * i, 3), top, 2 - i - g % 2 * 4, 4);
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t)
                part[t] = dot_4(part[t], code, codes + t * 256 + g * 16 + i * 4);
        }
        __m512i scale = q3_k_scales(b, g);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(part[t], scale));
    }
    __m512 d = half_scales(opened->d);
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t) {
        __m512 term = _mm512_mul_ps(d, _mm512_cvtepi32_ps(total[t]));
        v16_store(acc + t * 16, _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), term, v16_load(acc + t * 16)));
    }
}

WALK_256(q3_k, Q3_K_TOKENS)

/* q6_k_avx512.c: Q6_K panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * A group of 16 k is four vpdpbusd of unsigned codes that start from -32 times the sum of its
 * activations, so that the int32 sum is that of (code - 32); it is multiplied by the scale and added. */
#define Q6_K_TOKENS 8        /* a tile */
_Static_assert((int64_t)256 * 32 * 128 * 127 <= INT32_MAX, "a block of Q6_K fits in int32");

typedef struct {
    const packed_q6_k *b;
    const uint16_t *d;
} q6_k_opened;

V16 q6_k_opened q6_k_open(const uint8_t *panel, int32_t number)
{
    return (q6_k_opened){block_q6_k(panel, number), scales_q6_k(panel, number)};
}

V16 void q6_k_tile(const uint8_t *panel, int32_t number, const q6_k_opened *opened, int32_t tokens, const int8_t *codes,
                   const int16_t *sums, const float *scales, float *acc)
{
    const packed_q6_k *b = opened->b;
    (void)panel, (void)number;
    __m512i total[Q6_K_TOKENS];
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int32_t g = 0; g < 16; ++g) {
        const packed_q6_k_group *group = &b->quarter[g / 4].group[g % 4];
        prefetch_for(tokens, group->ql[0]);
        prefetch_for(tokens, group->ql[1]);
        prefetch_for(tokens, group->qh);
        __m512i l0 = load_512(group->ql[0]), l1 = load_512(group->ql[1]), h = load_512(group->qh);
        __m512i q0 = byte_join(byte_field(l0, 0, 15), h, 4, 0x30), q1 = byte_join(byte_field(l0, 4, 15), h, 2, 0x30);
        __m512i q2 = byte_join(byte_field(l1, 0, 15), h, 0, 0x30), q3 = byte_join(byte_field(l1, 4, 15), h, -2, 0x30);
        __m512i scale = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)b->quarter[g / 4].scales[g % 4]));
        __m512i part[Q6_K_TOKENS];
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = dot_4(broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_16 + 2 * g), q0, codes + t * 256 + g * 16);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = dot_4(part[t], q1, codes + t * 256 + g * 16 + 4);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = dot_4(part[t], q2, codes + t * 256 + g * 16 + 8);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            part[t] = dot_4(part[t], q3, codes + t * 256 + g * 16 + 12);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(part[t], scale));
    }
    __m512 scale = half_scales(opened->d);
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t) {
        __m512 term = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(total[t]));
        v16_store(acc + t * 16, _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), term, v16_load(acc + t * 16)));
    }
}

WALK_256(q6_k, Q6_K_TOKENS)

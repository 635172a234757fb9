/* q5_k_avx2.c: Q5_K panels with AVX2, a sub-block of 32 k as two groups with the same scale. */
#define Q5_K_TOKENS 4        /* a tile */
_Static_assert(8 * 31 * 127 <= INT16_MAX, "eight products of Q5_K fit in int16");
_Static_assert((int64_t)256 * 31 * 63 * 127 <= INT32_MAX, "a block of Q5_K fits in int32");

V16 void q5_k_open(const uint8_t *panel, int32_t number, groups_head *head)
{
    const packed_q5_k *b = (const packed_q5_k *)panel + number;
#pragma GCC unroll 4
    for (int32_t j = 0; j < 4; ++j) {
        __m256i scale, min;
        scales_of_6(b->low, b->high, j, &scale, &min);
        __m128i s0 = _mm256_castsi256_si128(scale), s1 = _mm256_extracti128_si256(scale, 1);
        __m128i m0 = _mm256_castsi256_si128(min), m1 = _mm256_extracti128_si256(min, 1);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i first = pairs_u8(s0, s0, half), second = pairs_u8(s1, s1, half);
            store_256(head->scale[4 * j][half], first);
            store_256(head->scale[4 * j + 1][half], first);
            store_256(head->scale[4 * j + 2][half], second);
            store_256(head->scale[4 * j + 3][half], second);
            store_256(head->min[j][half], pairs_u8(m0, m1, half)); /* (min 2j, min 2j+1) */
        }
    }
    open_factors(b->d, b->dmin, head);
}

V16 void q5_k_codes(const uint8_t *panel, int32_t number, int32_t j, int32_t half, __m256i q[8])
{
    const packed_q5_k *b = (const packed_q5_k *)panel + number;
    __m256i top = load_256(b->qh[j] + 32 * half);
#pragma GCC unroll 4
    for (int32_t i = 0; i < 4; ++i) {
        __m256i low = load_256(b->ql[j][i] + 32 * half);
        q[2 * i] = byte_join(byte_field(low, 0, 15), top, 4 - 2 * i, 16);
        q[2 * i + 1] = byte_join(byte_field(low, 4, 15), top, 3 - 2 * i, 16);
    }
}

V16 void q5_k_add(const groups_head *head, int32_t half, float da, __m256i products, const int16_t *sums, float *acc)
{
    __m256i minima = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int32_t j = 0; j < 4; ++j)
        minima = _mm256_add_epi32(minima, _mm256_madd_epi16(load_256(head->min[j][half]), broadcast_4(sums + SUMS_OF_32 + 2 * j)));
    add_with_minima(head, half, da, products, minima, acc);
}

static const groups_format q5_k_groups = {q5_k_open, q5_k_codes, start_at_zero, q5_k_add, sizeof(packed_q5_k)};
_Static_assert(Q5_K_TOKENS == GROUPS_TILE, "tiles of Q5_K are those of the walk");

V16 void q5_k_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    groups_panel(&q5_k_groups, panel, k, a, t0, nt, acc, scratch);
}

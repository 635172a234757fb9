/* q3_k_avx2.c: Q3_K panels with AVX2.
 *
 * The int16 sum of a group starts from -4 times that of its activations, so that it is the sum of eight
 * products of (code - 4). */
#define Q3_K_TOKENS 4        /* a tile */
_Static_assert(8 * 7 * 127 + 8 * 4 * 127 <= INT16_MAX, "eight products of Q3_K fit in int16");
_Static_assert((int64_t)256 * 4 * 32 * 127 <= INT32_MAX, "a block of Q3_K fits in int32");

V16 void q3_k_open(const uint8_t *panel, int32_t number, groups_head *head)
{
    const packed_q3_k *b = block_q3_k(panel, number);
#pragma GCC unroll 16
    for (int32_t g = 0; g < 16; ++g) {
        __m128i low = _mm_loadu_si128((const __m128i *)b->scales[g % 8]);
        __m128i high = _mm_loadu_si128((const __m128i *)b->scales[8 + g % 4]);
        low = _mm_and_si128(_mm_srli_epi16(low, g / 8 * 4), _mm_set1_epi8(15));
        high = _mm_and_si128(_mm_srli_epi16(high, g / 4 * 2), _mm_set1_epi8(3));
        __m128i s = _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32));
        store_256(head->scale[g][0], pairs_i8(s, s, 0));
        store_256(head->scale[g][1], pairs_i8(s, s, 1));
    }
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half)
        _mm256_storeu_ps(head->d + 8 * half, half_scales(scales_q3_k(panel, number), half));
}

V16 void q3_k_codes(const uint8_t *panel, int32_t number, int32_t j, int32_t half, __m256i q[8])
{
    const packed_q3_k *b = block_q3_k(panel, number);
    __m256i first = load_256(b->q[2 * j] + 32 * half), second = load_256(b->q[2 * j + 1] + 32 * half);
    __m256i top = load_256(b->high[j] + 32 * half);
#pragma GCC unroll 4
    for (int32_t i = 0; i < 4; ++i) {
        q[i] = byte_join(byte_field(first, 2 * i, 3), top, 2 - i, 4);
        q[4 + i] = byte_join(byte_field(second, 2 * i, 3), top, -2 - i, 4);
    }
}

/* SUMS_OF_PAIRS are -32 times the sums. */
V16 __m256i q3_k_start(const int16_t *sums) { return _mm256_srai_epi16(broadcast_4(sums), 3); }

/* acc[half] = fma(da, d * I, acc) */
V16 void q3_k_add(const groups_head *head, int32_t half, float da, __m256i products, const int16_t *sums, float *acc)
{
    (void)sums;
    __m256 term = _mm256_mul_ps(_mm256_loadu_ps(head->d + 8 * half), _mm256_cvtepi32_ps(products));
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(_mm256_set1_ps(da), term, _mm256_loadu_ps(acc + 8 * half)));
}

static const groups_format q3_k_groups = {q3_k_open, q3_k_codes, q3_k_start, q3_k_add, 16 * 110};
_Static_assert(Q3_K_TOKENS == GROUPS_TILE, "tiles of Q3_K are those of the walk");

V16 void q3_k_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    groups_panel(&q3_k_groups, panel, k, a, t0, nt, acc, scratch);
}

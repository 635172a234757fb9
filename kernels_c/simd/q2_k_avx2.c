/* q2_k_avx2.c: Q2_K panels with AVX2.
 *
 * The sums of 16 activations that minima meet are had times -32 (SUMS_OF_PAIRS). */
#define Q2_K_TOKENS 4        /* a tile */
_Static_assert(8 * 3 * 127 <= INT16_MAX, "eight products of Q2_K fit in int16");
_Static_assert((int64_t)256 * 15 * 127 * 32 <= INT32_MAX, "32 times the minima of a block of Q2_K fit in int32");

V16 void q2_k_open(const uint8_t *panel, int32_t number, groups_head *head)
{
    const packed_q2_k *b = (const packed_q2_k *)panel + number;
    for (int32_t g = 0; g < 16; ++g) {
        __m128i s = _mm_loadu_si128((const __m128i *)b->scales[g]), nibble = _mm_set1_epi8(15);
        __m128i scale = _mm_and_si128(s, nibble), min = _mm_and_si128(_mm_srli_epi16(s, 4), nibble);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            store_256(head->scale[g][half], pairs_u8(scale, scale, half));
            store_256(head->min[g][half], pairs_u8(min, min, half));
        }
    }
    open_factors(b->d, b->dmin, head);
}

V16 void q2_k_codes(const uint8_t *panel, int32_t number, int32_t j, int32_t half, __m256i q[8])
{
    const packed_q2_k *b = (const packed_q2_k *)panel + number;
    __m256i first = load_256(b->q[2 * j] + 32 * half), second = load_256(b->q[2 * j + 1] + 32 * half);
#pragma GCC unroll 4
    for (int32_t i = 0; i < 4; ++i) {
        q[i] = byte_field(first, 2 * i, 3);
        q[4 + i] = byte_field(second, 2 * i, 3);
    }
}

V16 void q2_k_add(const groups_head *head, int32_t half, float da, __m256i products, const int16_t *sums, float *acc)
{
    __m256i minima = _mm256_setzero_si256();
    for (int32_t g = 0; g < 16; ++g)
        minima = _mm256_sub_epi32(minima, _mm256_madd_epi16(load_256(head->min[g][half]), broadcast_4(sums + SUMS_OF_PAIRS + 2 * g)));
    add_with_minima(head, half, da, products, _mm256_srai_epi32(minima, 5), acc);
}

static const groups_format q2_k_groups = {q2_k_open, q2_k_codes, start_at_zero, q2_k_add, sizeof(packed_q2_k)};
_Static_assert(Q2_K_TOKENS == GROUPS_TILE, "tiles of Q2_K are those of the walk");

V16 void q2_k_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    groups_panel(&q2_k_groups, panel, k, a, t0, nt, acc, scratch);
}

/* q4_1_avx2.c: Q4_1 panels with AVX2: unsigned codes; 16 products fit an int16 lane as they are. */
#define Q4_1_TOKENS 4        /* a tile */
_Static_assert(16 * 15 * 127 <= INT16_MAX, "a block of Q4_1 fits in int16");

V16 void q4_1_codes(const packed_q4_1 *b, int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    nibbles_of_32(b->q, c, half, low, high);
}
V16 __m256 q4_1_d(const uint8_t *panel, int32_t b, int32_t half) { return half_scales(block_q4_1(panel, b)->d, half); }
V16 __m256 q4_1_m(const uint8_t *panel, int32_t b, int32_t half) { return half_scales(block_q4_1(panel, b)->m, half); }

V16 __m256i q4_1_start(const int16_t *sums)
{
    (void)sums;
    return _mm256_setzero_si256();
}

V16 __m256i q4_1_total(__m256i part, const int16_t *sums)
{
    (void)sums;
    return _mm256_madd_epi16(part, _mm256_set1_epi16(1));
}

V16 void q4_1_add(float *acc, int32_t half, float da, const int16_t *sums, __m256i products, __m256 d, __m256 m)
{
    add_affine_of_32(acc, half, da, sums, products, d, m);
}

EXPAND_OF_32(q4_1)
#define Q4_1_TILE(tokens, t, fetch) TILE_OF_32(q4_1, tokens, t, fetch)
WALK_OF_32(q4_1, Q4_1_TOKENS, Q4_1_TILE)

/* q4_0_avx2.c: Q4_0 panels with AVX2.
 *
 * Unsigned codes; an int16 sum that starts from -8 times the sum of its activations ends at the 16 products
 * of (code - 8). */
#define Q4_0_TOKENS 4        /* a tile */
_Static_assert(16 * 8 * 127 <= INT16_MAX, "a block of Q4_0 fits in int16");

V16 void q4_0_codes(const packed_q4_0 *b, int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    nibbles_of_32(b->q, c, half, low, high);
}
V16 __m256 q4_0_d(const uint8_t *panel, int32_t b, int32_t half) { return half_scales(scales_q4_0(panel, b), half); }
V16 __m256 q4_0_m(const uint8_t *panel, int32_t b, int32_t half)
{
    (void)panel, (void)b, (void)half;
    return _mm256_setzero_ps();
}

V16 __m256i q4_0_start(const int16_t *sums)
{
    return _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(broadcast_4(sums), 3));
}

V16 __m256i q4_0_total(__m256i part, const int16_t *sums)
{
    (void)sums;
    return _mm256_madd_epi16(part, _mm256_set1_epi16(1));
}

V16 void q4_0_add(float *acc, int32_t half, float da, const int16_t *sums, __m256i products, __m256 d, __m256 m)
{
    (void)sums, (void)m;
    add_block_of_32(acc, half, da, products, d);
}

EXPAND_OF_32(q4_0)
#define Q4_0_TILE(tokens, t, fetch) TILE_OF_32(q4_0, tokens, t, fetch)
WALK_OF_32(q4_0, Q4_0_TOKENS, Q4_0_TILE)

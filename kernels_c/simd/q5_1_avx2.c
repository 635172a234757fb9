/* q5_1_avx2.c: Q5_1 panels with AVX2.
 *
 * As for Q5_0: an int16 sum that starts from -16 times the sum of its activations holds, modulo 2^16, the 16
 * products of (code - 16). What was taken is put back in int32. */
#define Q5_1_TOKENS 4        /* a tile */
_Static_assert(2 * 31 * 127 <= INT16_MAX, "maddubs of Q5_1 codes does not saturate");
_Static_assert(16 * 16 * 127 <= INT16_MAX, "a block of Q5_1 less its middle fits in int16");

V16 void q5_1_codes(const packed_q5_1 *b, int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    nibbles_of_32(b->q, c, half, low, high);
    fifth_bits_of_32(b->high, c, half, low, high);
}
V16 __m256 q5_1_d(const uint8_t *panel, int32_t b, int32_t half) { return half_scales(block_q5_1(panel, b)->d, half); }
V16 __m256 q5_1_m(const uint8_t *panel, int32_t b, int32_t half) { return half_scales(block_q5_1(panel, b)->m, half); }

V16 __m256i q5_1_start(const int16_t *sums)
{
    return _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(broadcast_4(sums), 4));
}

V16 __m256i q5_1_total(__m256i part, const int16_t *sums)
{
    return _mm256_add_epi32(_mm256_madd_epi16(part, _mm256_set1_epi16(1)), _mm256_set1_epi32(16 * (sums[0] + sums[1])));
}

V16 void q5_1_add(float *acc, int32_t half, float da, const int16_t *sums, __m256i products, __m256 d, __m256 m)
{
    add_affine_of_32(acc, half, da, sums, products, d, m);
}

EXPAND_OF_32(q5_1)
#define Q5_1_TILE(tokens, t, fetch) TILE_OF_32(q5_1, tokens, t, fetch)
WALK_OF_32(q5_1, Q5_1_TOKENS, Q5_1_TILE)

/* q4_0_avxvnni.c: Q4_0 panels with 256-bit VNNI: eight dot_4 of unsigned codes start from -8 times the sum of
 * the block's activations, which are kept times -128. */
#define Q4_0_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */

V16 __m256i q4_0_vnni_start(const int16_t *sums) { return _mm256_srai_epi32(broadcast_4(sums + SUMS_TIMES_128), 4); }

#define Q4_0_VNNI_TILE(tokens, t, fetch) TILE_OF_32_VNNI(q4_0, tokens, t, fetch)
WALK_OF_32_VNNI(q4_0, Q4_0_VNNI_TOKENS, Q4_0_VNNI_TILE)

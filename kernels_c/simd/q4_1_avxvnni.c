/* q4_1_avxvnni.c: Q4_1 panels with 256-bit VNNI: eight dot_4 of unsigned codes. */
#define Q4_1_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */

V16 __m256i q4_1_vnni_start(const int16_t *sums)
{
    (void)sums;
    return _mm256_setzero_si256();
}

#define Q4_1_VNNI_TILE(tokens, t, fetch) TILE_OF_32_VNNI(q4_1, tokens, t, fetch)
WALK_OF_32_VNNI(q4_1, Q4_1_VNNI_TOKENS, Q4_1_VNNI_TILE)

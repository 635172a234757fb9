/* q5_1_avxvnni.c: Q5_1 panels with 256-bit VNNI: eight dot_4 of unsigned codes. */
#define Q5_1_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */

V16 __m256i q5_1_vnni_start(const int16_t *sums)
{
    (void)sums;
    return _mm256_setzero_si256();
}

#define Q5_1_VNNI_TILE(tokens, t, fetch) TILE_OF_32_VNNI(q5_1, tokens, t, fetch)
WALK_OF_32_VNNI(q5_1, Q5_1_VNNI_TOKENS, Q5_1_VNNI_TILE)

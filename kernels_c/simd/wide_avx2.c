/* wide_avx2.c: blocks of 32 with codes of a whole signed byte, for many tokens.
 *
 * maddubs and madd share the two units that multiply, so codes that are used often are widened to
 * int16 beforehand: four products are then two madd. Pairs are (k, k + 2) with k % 4 == 0, and
 * (k + 1, k + 3). */
#define WIDE_BLOCKS 4
#define WIDE_TOKENS 4        /* a tile */
typedef struct {
    float d[WIDE_BLOCKS][16];
    int16_t w[WIDE_BLOCKS][8][2][2][16];         /* [block][chunk][odd][half]: a pair a row */
    int16_t x[WIDE_BLOCKS][WIDE_TOKENS][2][16];  /* [block][token][odd]: a pair a chunk */
} wide_blocks;
_Static_assert(sizeof(wide_blocks) <= PANEL_SCRATCH, "widened blocks fit in scratch");

V16 __m256i wide_even(__m256i codes) { return _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8); }
V16 __m256i wide_odd(__m256i codes) { return _mm256_srai_epi16(codes, 8); }

/* Codes of chunk c, rows 8*half .. +7, into block b. */
V16 void widen_codes(wide_blocks *wide, int32_t b, int32_t c, int32_t half, __m256i codes)
{
    store_256(wide->w[b][c][0][half], wide_even(codes));
    store_256(wide->w[b][c][1][half], wide_odd(codes));
}

/* total + the four products of codes w and activations x, each int8, in every int32 lane. */
V16 __m256i add_signed_products(__m256i total, __m256i w, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* A tile of `tokens` tokens (a constant) over `blocks` widened blocks. codes, da, acc: of its first
 * token; those of the next block lie n_tokens further. next: the blocks to fetch meanwhile, or NULL; block_bytes: of each (a constant). */
V16 void wide_tile(wide_blocks *wide, int32_t blocks, int32_t tokens,
                   const int8_t *codes, const float *da, int64_t n_tokens, float *acc, const char *next, int32_t block_bytes)
{
    for (int32_t b = 0; b < blocks; ++b)
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t) {
            __m256i x = load_256(codes + (b * n_tokens + t) * 32);
            store_256(wide->x[b][t][0], wide_even(x));
            store_256(wide->x[b][t][1], wide_odd(x));
        }
    for (int32_t b = 0; b < blocks; ++b, da += n_tokens) {
        __m256i total[4][2];
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            if (next && c * 64 < block_bytes)
                _mm_prefetch(next + b * block_bytes + c * 64, _MM_HINT_T0);
#pragma GCC unroll 2
            for (int32_t odd = 0; odd < 2; ++odd) {
                __m256i w0 = load_256(wide->w[b][c][odd][0]), w1 = load_256(wide->w[b][c][odd][1]);
                KEEP(w0);
                KEEP(w1);
#pragma GCC unroll 4
                for (int32_t t = 0; t < tokens; ++t) {
                    __m256i x = broadcast_4(wide->x[b][t][odd] + 2 * c);
                    total[t][0] = _mm256_add_epi32(total[t][0], _mm256_madd_epi16(w0, x));
                    total[t][1] = _mm256_add_epi32(total[t][1], _mm256_madd_epi16(w1, x));
                    KEEP(total[t][0]);
                    KEEP(total[t][1]);
                }
            }
        }
        __m256 d0 = _mm256_loadu_ps(wide->d[b]), d1 = _mm256_loadu_ps(wide->d[b] + 8);
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t) {
            add_block_of_32(acc + t * 16, 0, da[t], total[t][0], d0);
            add_block_of_32(acc + t * 16, 1, da[t], total[t][1], d1);
        }
        KEEP_STORED();
    }
}

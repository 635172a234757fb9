/* q8_0_avx2.c: Q8_0 panels with AVX2.
 *
 * Up to three tokens take the codes as they are stored: maddubs of |w| and of the activation with w's
 * sign, and madd, which widens each pair at once. All three share the two units that multiply. So
 * for more tokens the codes are widened to int16 beforehand, and four products are two madd. */
#define Q8_0_TOKENS 4        /* a tile */
_Static_assert(2 * 128 * 127 <= INT16_MAX, "a pair of Q8_0 products fits in int16, -128 included");

/* Some blocks of a panel as int16, for use by many tokens, and the codes of a tile of tokens. Pairs
 * are (k, k + 2) with k % 4 == 0, and (k + 1, k + 3). */
#define Q8_0_WIDENED 4
typedef struct {
    float d[Q8_0_WIDENED][16];
    int16_t w[Q8_0_WIDENED][8][2][2][16];            /* [block][chunk][odd][half]: a pair a row */
    int16_t x[Q8_0_WIDENED][Q8_0_TOKENS][2][16];     /* [block][token][odd]: a pair a chunk */
} q8_0_wide;
_Static_assert(sizeof(q8_0_wide) <= PANEL_SCRATCH, "widened Q8_0 blocks fit in scratch");

V16 __m256i q8_0_even(__m256i codes) { return _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8); }
V16 __m256i q8_0_odd(__m256i codes) { return _mm256_srai_epi16(codes, 8); }

/* A whole panel of `blocks` blocks for `tokens` (a constant) tokens. */
V16 void q8_0_direct(const uint8_t *panel, int32_t blocks, int32_t tokens, const activations *a, int32_t t0, float *acc)
{
    __m256 sum[3][2];
#pragma GCC unroll 3
    for (int32_t t = 0; t < tokens; ++t)
        sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    for (int32_t b = 0; b < blocks; ++b) {
        const packed_q8_0 *block = block_q8_0(panel, b);
        const uint16_t *d = scales_q8_0(panel, b);
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        __m256i total[3][2];
#pragma GCC unroll 3
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c)
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i w = load_256(block->q[c] + 32 * half);
                __m256i magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 3
                for (int32_t t = 0; t < tokens; ++t) {
                    __m256i x = _mm256_sign_epi8(broadcast_4(codes + t * 32 + c * 4), w);
                    __m256i products = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, x), _mm256_set1_epi16(1));
                    total[t][half] = _mm256_add_epi32(total[t][half], products);
                    KEEP(total[t][half]);
                }
            }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256 scale = half_scales(d, half);
#pragma GCC unroll 3
            for (int32_t t = 0; t < tokens; ++t) {
                __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(a->scales[at + t]));
                sum[t][half] = _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(total[t][half]), sum[t][half]);
            }
        }
    }
#pragma GCC unroll 3
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            _mm256_storeu_ps(acc + t * 16 + 8 * half, sum[t][half]);
}

/* A tile of `tokens` tokens (a constant) over `blocks` widened blocks. codes, da, acc: of its first
 * token; those of the next block lie n_tokens further. next: the blocks to fetch meanwhile, or NULL. */
V16 void q8_0_tile(q8_0_wide *wide, int32_t blocks, int32_t tokens,
                   const int8_t *codes, const float *da, int64_t n_tokens, float *acc, const char *next)
{
    for (int32_t b = 0; b < blocks; ++b)
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t) {
            __m256i x = load_256(codes + (b * n_tokens + t) * 32);
            store_256(wide->x[b][t][0], q8_0_even(x));
            store_256(wide->x[b][t][1], q8_0_odd(x));
        }
    for (int32_t b = 0; b < blocks; ++b, da += n_tokens) {
        __m256i total[4][2];
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            if (next)
                _mm_prefetch(next + b * 512 + c * 64, _MM_HINT_T0);
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

V16 void q8_0_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    if (nt == 1)
        return q8_0_direct(panel, k / 32, 1, a, t0, acc);
    if (nt == 2)
        return q8_0_direct(panel, k / 32, 2, a, t0, acc);
    if (nt == 3)
        return q8_0_direct(panel, k / 32, 3, a, t0, acc);
    q8_0_wide *wide = (q8_0_wide *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t first = 0; first < k / 32; first += Q8_0_WIDENED) {
        int32_t blocks = k / 32 - first < Q8_0_WIDENED ? k / 32 - first : Q8_0_WIDENED;
        for (int32_t b = 0; b < blocks; ++b) {
            for (int32_t half = 0; half < 2; ++half)
                _mm256_storeu_ps(wide->d[b] + 8 * half, half_scales(scales_q8_0(panel, first + b), half));
            for (int32_t c = 0; c < 8; ++c)
#pragma GCC unroll 2
                for (int32_t half = 0; half < 2; ++half) {
                    __m256i w = load_256(block_q8_0(panel, first + b)->q[c] + 32 * half);
                    store_256(wide->w[b][c][0][half], q8_0_even(w));
                    store_256(wide->w[b][c][1][half], q8_0_odd(w));
                }
        }
        const int64_t at = (int64_t)first * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        const float *da = a->scales + at;
#define TILE(tokens, t, fetch) \
    q8_0_tile(wide, blocks, tokens, codes + (t) * 32, da + (t), a->n_tokens, acc + (t) * 16, \
              fetch ? (const char *)block_q8_0(panel, first + blocks) : NULL)
        FOR_TILES(Q8_0_TOKENS, nt, TILE);
#undef TILE
    }
}

/* q4_k_avx2.c: Q4_K panels with AVX2.
 *
 * int16 lane of maddubs: two codes of one row. Eight of them, 16 products of at most 15 * 127,
 * cover a sub-block of 32 before the scale widens them to int32. */
#define Q4_K_TOKENS 4        /* a tile */
_Static_assert(16 * 15 * 127 <= INT16_MAX, "a sub-block of Q4_K fits in int16");
_Static_assert((int64_t)256 * 15 * 63 * 127 <= INT32_MAX, "a block of Q4_K fits in int32");

/* One block, expanded for use by many tokens. */
typedef struct {
    uint8_t q[8][8][64];          /* [sub-block][chunk] */
    int16_t scale[8][2][16];      /* [sub-block][half]: (s, s) a row */
    int16_t min[4][2][16];        /* [pair of sub-blocks][half]: (min 2j, min 2j+1) a row */
    float d[16], minus_dmin[16];
} q4_k_block;
_Static_assert(sizeof(q4_k_block) <= PANEL_SCRATCH, "a Q4_K block fits in scratch");

V16 void q4_k_expand(const packed_q4_k *b, q4_k_block *out)
{
    __m256i nibble = _mm256_set1_epi8(15);
    for (int32_t j = 0; j < 4; ++j) {
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c)
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i q = load_256(b->q[8 * j + c] + 32 * half);
                store_256(out->q[2 * j][c] + 32 * half, _mm256_and_si256(q, nibble));
                store_256(out->q[2 * j + 1][c] + 32 * half, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble));
            }
        __m256i scale, min;
        scales_of_6(b->low, b->high, j, &scale, &min);
        __m128i s0 = _mm256_castsi256_si128(scale), s1 = _mm256_extracti128_si256(scale, 1);
        __m128i m0 = _mm256_castsi256_si128(min), m1 = _mm256_extracti128_si256(min, 1);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            store_256(out->scale[2 * j][half], pairs_u8(s0, s0, half));
            store_256(out->scale[2 * j + 1][half], pairs_u8(s1, s1, half));
            store_256(out->min[j][half], pairs_u8(m0, m1, half));
        }
    }
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half) {
        _mm256_storeu_ps(out->d + 8 * half, half_scales(b->d, half));
        _mm256_storeu_ps(out->minus_dmin + 8 * half,
                         _mm256_xor_ps(half_scales(b->dmin, half), _mm256_set1_ps(-0.0f)));
    }
}

/* acc[t][half] = fma(da, fma(-dmin, M, d * I), acc) */
V16 void q4_k_add(float *acc, int32_t half, float da, __m256i products, __m256i minima, __m256 d, __m256 minus_dmin)
{
    __m256 term = _mm256_mul_ps(d, _mm256_cvtepi32_ps(products));
    term = _mm256_fmadd_ps(minus_dmin, _mm256_cvtepi32_ps(minima), term);
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(_mm256_set1_ps(da), term, _mm256_loadu_ps(acc + 8 * half)));
}

/* A tile of `tokens` tokens (a constant) over an expanded block. codes, sums, scales, acc: of its first
 * token. next: the block to fetch meanwhile, or NULL. */
V16 void q4_k_tile(const q4_k_block *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                   const float *scales, float *acc, const packed_q4_k *next)
{
    __m256i total[4][2];
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t j = 0; j < 8; ++j) {
        if (next)
            fetch_bytes((const uint8_t *)next + j * sizeof *next / 8, sizeof *next / 8);
        __m256i part[4][2];
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            __m256i w0 = load_256(b->q[j][c]), w1 = load_256(b->q[j][c] + 32);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i x = broadcast_4(codes + t * 256 + j * 32 + c * 4);
                __m256i p0 = _mm256_maddubs_epi16(w0, x), p1 = _mm256_maddubs_epi16(w1, x);
                part[t][0] = c ? _mm256_add_epi16(part[t][0], p0) : p0;
                part[t][1] = c ? _mm256_add_epi16(part[t][1], p1) : p1;
                KEEP(part[t][0]);
                KEEP(part[t][1]);
            }
        }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i scale = load_256(b->scale[j][half]);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t)
                total[t][half] = _mm256_add_epi32(total[t][half], _mm256_madd_epi16(part[t][half], scale));
        }
    }
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i minima = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (int32_t j = 0; j < 4; ++j) {
                __m256i sum = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j);
                minima = _mm256_add_epi32(minima, _mm256_madd_epi16(load_256(b->min[j][half]), sum));
            }
            q4_k_add(acc + t * 16, half, scales[t], total[t][half], minima,
                     _mm256_loadu_ps(b->d + 8 * half), _mm256_loadu_ps(b->minus_dmin + 8 * half));
        }
}

/* A block straight from the panel, for `tokens` (a constant, 1 or 2) tokens. */
V16 void q4_k_direct(const packed_q4_k *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                     const float *scales, float *acc)
{
    __m256i nibble = _mm256_set1_epi8(15);
    __m256i total[2][2], minima[2][2];
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            total[t][half] = minima[t][half] = _mm256_setzero_si256();
    for (int32_t j = 0; j < 4; ++j) {
        __m256i scale, min;
        scales_of_6(b->low, b->high, j, &scale, &min);
        __m128i s0 = _mm256_castsi256_si128(scale), s1 = _mm256_extracti128_si256(scale, 1);
        __m128i m0 = _mm256_castsi256_si128(min), m1 = _mm256_extracti128_si256(min, 1);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i low[2], high[2];
#pragma GCC unroll 8
            for (int32_t c = 0; c < 8; ++c) {
                __m256i q = load_256(b->q[8 * j + c] + 32 * half);
                __m256i q0 = _mm256_and_si256(q, nibble), q1 = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
#pragma GCC unroll 2
                for (int32_t t = 0; t < tokens; ++t) {
                    __m256i p0 = _mm256_maddubs_epi16(q0, broadcast_4(codes + t * 256 + j * 64 + c * 4));
                    __m256i p1 = _mm256_maddubs_epi16(q1, broadcast_4(codes + t * 256 + j * 64 + 32 + c * 4));
                    low[t] = c ? _mm256_add_epi16(low[t], p0) : p0;
                    high[t] = c ? _mm256_add_epi16(high[t], p1) : p1;
                    KEEP(low[t]);
                    KEEP(high[t]);
                }
            }
            __m256i scale0 = pairs_u8(s0, s0, half), scale1 = pairs_u8(s1, s1, half);
            __m256i mins = pairs_u8(m0, m1, half);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i sum = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j);
                __m256i both = _mm256_add_epi32(_mm256_madd_epi16(low[t], scale0), _mm256_madd_epi16(high[t], scale1));
                total[t][half] = _mm256_add_epi32(total[t][half], both);
                minima[t][half] = _mm256_add_epi32(minima[t][half], _mm256_madd_epi16(mins, sum));
            }
        }
    }
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            q4_k_add(acc + t * 16, half, scales[t], total[t][half], minima[t][half], half_scales(b->d, half),
                     _mm256_xor_ps(half_scales(b->dmin, half), _mm256_set1_ps(-0.0f)));
}

V16 void q4_k_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    const packed_q4_k *block = (const packed_q4_k *)panel;
    q4_k_block *expanded = (q4_k_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 256; ++b) {
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 256;
        const int16_t *sums = a->sums + at * ACTIVATION_SUMS_256;
        const float *scales = a->scales + at;
        if (nt == 1) {
            q4_k_direct(block + b, 1, codes, sums, scales, acc);
            continue;
        }
        if (nt == 2) {
            q4_k_direct(block + b, 2, codes, sums, scales, acc);
            continue;
        }
        q4_k_expand(block + b, expanded);
#define TILE(tokens, t, fetch) \
    q4_k_tile(expanded, tokens, codes + (t) * 256, sums + (t) * ACTIVATION_SUMS_256, scales + (t), acc + (t) * 16, \
              fetch ? block + b + 1 : NULL)
        FOR_TILES(Q4_K_TOKENS, nt, TILE);
#undef TILE
    }
}

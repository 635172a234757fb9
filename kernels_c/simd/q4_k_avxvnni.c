/* q4_k_avxvnni.c: Q4_K panels with 256-bit VNNI.
 *
 * Four dot_4 are 16 products of at most 15 * 127: their int32 sum fits in its lower int16, so one
 * dot_2 with lanes (scale, 0) multiplies and adds it. The minima of two sub-blocks are another. */
#define Q4_K_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */
_Static_assert(16 * 15 * 127 <= INT16_MAX, "half a sub-block of Q4_K fits in int16");
_Static_assert((int64_t)256 * 15 * 63 * 127 <= INT32_MAX, "a block of Q4_K fits in int32");

/* One block, expanded for use by many tokens. */
typedef struct {
    uint8_t q[8][8][64];          /* [sub-block][chunk] */
    int32_t scale[8][2][8];       /* [sub-block][half]: (s, 0) a row */
    int16_t min[4][2][16];        /* [pair of sub-blocks][half]: (min 2j, min 2j+1) a row */
    float d[16], minus_dmin[16];
} q4_k_vnni_block;
_Static_assert(sizeof(q4_k_vnni_block) <= PANEL_SCRATCH, "a Q4_K block fits in scratch");

/* The codes of a block, a byte each: [sub-block][chunk]. */
V16 void q4_k_vnni_codes(const packed_q4_k *b, uint8_t (*out)[8][64])
{
    __m256i nibble = _mm256_set1_epi8(15);
    for (int32_t j = 0; j < 4; ++j)
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c)
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i q = load_256(b->q[8 * j + c] + 32 * half);
                store_256(out[2 * j][c] + 32 * half, _mm256_and_si256(q, nibble));
                store_256(out[2 * j + 1][c] + 32 * half, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble));
            }
}

/* Rows 8*half .. +7 of scales as (s, 0). */
V16 __m256i q4_k_vnni_scale_lanes(__m128i s, int32_t half) { return _mm256_cvtepu8_epi32(half ? _mm_srli_si128(s, 8) : s); }

V16 __m256 q4_k_vnni_minus_dmin(const packed_q4_k *b, int32_t half)
{
    return _mm256_xor_ps(half_scales(b->dmin, half), _mm256_set1_ps(-0.0f));
}

V16 void q4_k_vnni_expand(const packed_q4_k *b, q4_k_vnni_block *out)
{
    q4_k_vnni_codes(b, out->q);
    for (int32_t j = 0; j < 4; ++j) {
        __m256i scale, min;
        scales_of_6(b->low, b->high, j, &scale, &min);
        __m128i s0 = _mm256_castsi256_si128(scale), s1 = _mm256_extracti128_si256(scale, 1);
        __m128i m0 = _mm256_castsi256_si128(min), m1 = _mm256_extracti128_si256(min, 1);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            store_256(out->scale[2 * j][half], q4_k_vnni_scale_lanes(s0, half));
            store_256(out->scale[2 * j + 1][half], q4_k_vnni_scale_lanes(s1, half));
            store_256(out->min[j][half], pairs_u8(m0, m1, half));
        }
    }
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half) {
        _mm256_storeu_ps(out->d + 8 * half, half_scales(b->d, half));
        _mm256_storeu_ps(out->minus_dmin + 8 * half, q4_k_vnni_minus_dmin(b, half));
    }
}

/* A tile of `tokens` tokens (a constant) over an expanded block. codes, sums, scales, acc: of its first
 * token. next: the block to fetch meanwhile, or NULL. */
V16 void q4_k_vnni_tile(const q4_k_vnni_block *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                   const float *scales, float *acc, const packed_q4_k *next)
{
    __m256i total[Q4_K_VNNI_TOKENS][2];
#pragma GCC unroll 6
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t j = 0; j < 8; ++j) {
        if (next)
            fetch_bytes((const uint8_t *)next + j * sizeof *next / 8, sizeof *next / 8);
#pragma GCC unroll 2
        for (int32_t first = 0; first < 8; first += 4) {
            __m256i part[Q4_K_VNNI_TOKENS][2];
#pragma GCC unroll 4
            for (int32_t c = first; c < first + 4; ++c) {
                __m256i w0 = load_256(b->q[j][c]), w1 = load_256(b->q[j][c] + 32);
                KEEP(w0);
                KEEP(w1);
#pragma GCC unroll 6
                for (int32_t t = 0; t < tokens; ++t) {
                    __m256i x = broadcast_4(codes + t * 256 + j * 32 + c * 4);
                    part[t][0] = dot_4(c == first ? _mm256_setzero_si256() : part[t][0], w0, x);
                    part[t][1] = dot_4(c == first ? _mm256_setzero_si256() : part[t][1], w1, x);
                }
            }
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i scale = load_256(b->scale[j][half]);
#pragma GCC unroll 6
                for (int32_t t = 0; t < tokens; ++t)
                    total[t][half] = dot_2(total[t][half], part[t][half], scale);
            }
        }
    }
#pragma GCC unroll 6
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i minima = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (int32_t j = 0; j < 4; ++j)
                minima = dot_2(minima, load_256(b->min[j][half]), broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j));
            q4_k_add(acc + t * 16, half, scales[t], total[t][half], minima,
                     _mm256_loadu_ps(b->d + 8 * half), _mm256_loadu_ps(b->minus_dmin + 8 * half));
        }
}

/* A block straight from the panel, for `tokens` (a constant, 1 or 2) tokens. */
V16 void q4_k_vnni_direct(const packed_q4_k *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                     const float *scales, float *acc)
{
    __m256i nibble = _mm256_set1_epi8(15);
    __m256i total[2][2], minima[2][2];
#pragma GCC unroll 2
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = minima[t][0] = minima[t][1] = _mm256_setzero_si256();
    for (int32_t j = 0; j < 4; ++j) {
        __m256i scale, min;
        scales_of_6(b->low, b->high, j, &scale, &min);
        __m128i s0 = _mm256_castsi256_si128(scale), s1 = _mm256_extracti128_si256(scale, 1);
        __m128i m0 = _mm256_castsi256_si128(min), m1 = _mm256_extracti128_si256(min, 1);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i scale0 = q4_k_vnni_scale_lanes(s0, half), scale1 = q4_k_vnni_scale_lanes(s1, half);
            __m256i mins = pairs_u8(m0, m1, half);
#pragma GCC unroll 2
            for (int32_t first = 0; first < 8; first += 4) {
                __m256i low[2], high[2];
#pragma GCC unroll 4
                for (int32_t c = first; c < first + 4; ++c) {
                    __m256i q = load_256(b->q[8 * j + c] + 32 * half);
                    __m256i q0 = _mm256_and_si256(q, nibble), q1 = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
#pragma GCC unroll 2
                    for (int32_t t = 0; t < tokens; ++t) {
                        const int8_t *x = codes + t * 256 + j * 64 + c * 4;
                        low[t] = dot_4(c == first ? _mm256_setzero_si256() : low[t], q0, broadcast_4(x));
                        high[t] = dot_4(c == first ? _mm256_setzero_si256() : high[t], q1, broadcast_4(x + 32));
                    }
                }
#pragma GCC unroll 2
                for (int32_t t = 0; t < tokens; ++t)
                    total[t][half] = dot_2(dot_2(total[t][half], low[t], scale0), high[t], scale1);
            }
#pragma GCC unroll 2
            for (int32_t t = 0; t < tokens; ++t)
                minima[t][half] = dot_2(minima[t][half], mins, broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j));
        }
    }
#pragma GCC unroll 2
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            q4_k_add(acc + t * 16, half, scales[t], total[t][half], minima[t][half], half_scales(b->d, half),
                     q4_k_vnni_minus_dmin(b, half));
}

V16 void q4_k_vnni_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    const packed_q4_k *block = (const packed_q4_k *)panel;
    q4_k_vnni_block *expanded = (q4_k_vnni_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 256; ++b) {
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 256;
        const int16_t *sums = a->sums + at * ACTIVATION_SUMS_256;
        const float *scales = a->scales + at;
        if (nt == 1) {
            q4_k_vnni_direct(block + b, 1, codes, sums, scales, acc);
            continue;
        }
        if (nt == 2) {
            q4_k_vnni_direct(block + b, 2, codes, sums, scales, acc);
            continue;
        }
        q4_k_vnni_expand(block + b, expanded);
#define TILE(tokens, t, fetch) \
    q4_k_vnni_tile(expanded, tokens, codes + (t) * 256, sums + (t) * ACTIVATION_SUMS_256, scales + (t), acc + (t) * 16, \
              fetch ? block + b + 1 : NULL)
        FOR_TILES_OF_SIX(Q4_K_VNNI_TOKENS, nt, TILE);
#undef TILE
    }
}

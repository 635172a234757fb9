/* q6_k_avx2.c: Q6_K panels with AVX2.
 *
 * A group of 16 k shares a scale: four maddubs of unsigned codes, at most 2 * 63 * 127 each, so
 * none saturates. Their int16 sum starts from -32 times the sum of its activations, so that modulo
 * 2^16 it is the sum of eight products of (code - 32), which fits. */
#define Q6_K_TOKENS 4        /* a tile */
_Static_assert(2 * 63 * 127 <= INT16_MAX, "maddubs of Q6_K codes does not saturate");
_Static_assert(8 * 32 * 127 <= INT16_MAX, "eight centred products of Q6_K fit in int16");
_Static_assert((int64_t)256 * 32 * 128 * 127 <= INT32_MAX, "a block of Q6_K fits in int32");

typedef struct {
    uint8_t q[16][4][64];         /* [group of 16 k][chunk] */
    int16_t scale[16][2][16];     /* [group][half]: (s, s) a row */
    float d[16];
} q6_k_block;
_Static_assert(sizeof(q6_k_block) <= PANEL_SCRATCH, "a Q6_K block fits in scratch");

/* The four chunks of a group, rows 8*half .. +7. */
V16 void q6_k_codes(const packed_q6_k_group *group, int32_t half, __m256i q[4])
{
    __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    __m256i l0 = load_256(group->ql[0] + 32 * half), l1 = load_256(group->ql[1] + 32 * half);
    __m256i h = load_256(group->qh + 32 * half);
    q[0] = _mm256_or_si256(_mm256_and_si256(l0, nibble), _mm256_and_si256(_mm256_slli_epi16(h, 4), top));
    q[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(l0, 4), nibble), _mm256_and_si256(_mm256_slli_epi16(h, 2), top));
    q[2] = _mm256_or_si256(_mm256_and_si256(l1, nibble), _mm256_and_si256(h, top));
    q[3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(l1, 4), nibble), _mm256_and_si256(_mm256_srli_epi16(h, 2), top));
}

V16 __m256i q6_k_scale_pairs(const packed_q6_k *b, int32_t g, int32_t half)
{
    __m128i s = _mm_loadu_si128((const __m128i *)b->quarter[g / 4].scales[g % 4]);
    return pairs_i8(s, s, half);
}

V16 void q6_k_expand(const packed_q6_k *b, const uint16_t *d, q6_k_block *out)
{
    for (int32_t g = 0; g < 16; ++g)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i q[4];
            q6_k_codes(&b->quarter[g / 4].group[g % 4], half, q);
#pragma GCC unroll 8
            for (int32_t c = 0; c < 4; ++c)
                store_256(out->q[g][c] + 32 * half, q[c]);
            store_256(out->scale[g][half], q6_k_scale_pairs(b, g, half));
        }
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half)
        _mm256_storeu_ps(out->d + 8 * half, half_scales(d, half));
}

/* acc[half] = fma(da, d * I, acc) */
V16 void q6_k_add(float *acc, int32_t half, float da, __m256i products, __m256 d)
{
    __m256 term = _mm256_mul_ps(d, _mm256_cvtepi32_ps(products));
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(_mm256_set1_ps(da), term, _mm256_loadu_ps(acc + 8 * half)));
}

/* A tile of `tokens` tokens (a constant) over an expanded block. codes, sums, scales, acc: of its first
 * token. next: the block to fetch meanwhile, or NULL. */
V16 void q6_k_tile(const q6_k_block *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                   const float *scales, float *acc, const packed_q6_k *next)
{
    __m256i total[4][2];
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t g = 0; g < 16; ++g) {
        if (next) {
            fetch_bytes(&next->quarter[g / 4].group[g % 4], sizeof(packed_q6_k_group));
            if (g % 4 == 0)
                fetch_bytes(next->quarter[g / 4].scales, sizeof next->quarter[g / 4].scales);
        }
        __m256i part[4][2];
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t)
            part[t][0] = part[t][1] = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_PAIRS + 2 * g);
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c) {
            __m256i w0 = load_256(b->q[g][c]), w1 = load_256(b->q[g][c] + 32);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i x = broadcast_4(codes + t * 256 + g * 16 + c * 4);
                part[t][0] = _mm256_add_epi16(part[t][0], _mm256_maddubs_epi16(w0, x));
                part[t][1] = _mm256_add_epi16(part[t][1], _mm256_maddubs_epi16(w1, x));
                KEEP(part[t][0]);
                KEEP(part[t][1]);
            }
        }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i scale = load_256(b->scale[g][half]);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t)
                total[t][half] = _mm256_add_epi32(total[t][half], _mm256_madd_epi16(part[t][half], scale));
        }
    }
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            q6_k_add(acc + t * 16, half, scales[t], total[t][half], _mm256_loadu_ps(b->d + 8 * half));
}

V16 void q6_k_direct(const packed_q6_k *b, const uint16_t *d, int32_t tokens, const int8_t *codes,
                     const int16_t *sums, const float *scales, float *acc)
{
    __m256i total[2][2];
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t g = 0; g < 16; ++g) {
        const packed_q6_k_group *group = &b->quarter[g / 4].group[g % 4];
        prefetch(group->ql[0]);
        prefetch(group->ql[1]);
        prefetch(group->qh);
        if (g % 4 == 0)
            prefetch(b->quarter[g / 4].scales);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i q[4];
            q6_k_codes(&b->quarter[g / 4].group[g % 4], half, q);
            __m256i scale = q6_k_scale_pairs(b, g, half);
#pragma GCC unroll 2
            for (int32_t t = 0; t < tokens; ++t) {
                const int8_t *x = codes + t * 256 + g * 16;
                __m256i part = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_PAIRS + 2 * g);
                __m256i p01 = _mm256_add_epi16(_mm256_maddubs_epi16(q[0], broadcast_4(x)),
                                               _mm256_maddubs_epi16(q[1], broadcast_4(x + 4)));
                __m256i p23 = _mm256_add_epi16(_mm256_maddubs_epi16(q[2], broadcast_4(x + 8)),
                                               _mm256_maddubs_epi16(q[3], broadcast_4(x + 12)));
                part = _mm256_add_epi16(part, _mm256_add_epi16(p01, p23));
                total[t][half] = _mm256_add_epi32(total[t][half], _mm256_madd_epi16(part, scale));
            }
        }
    }
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            q6_k_add(acc + t * 16, half, scales[t], total[t][half], half_scales(d, half));
}

V16 void q6_k_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    q6_k_block *expanded = (q6_k_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 256; ++b) {
        const packed_q6_k *block = block_q6_k(panel, b);
        const uint16_t *d = scales_q6_k(panel, b);
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 256;
        const int16_t *sums = a->sums + at * ACTIVATION_SUMS_256;
        const float *scales = a->scales + at;
        if (nt == 1) {
            q6_k_direct(block, d, 1, codes, sums, scales, acc);
            continue;
        }
        if (nt == 2) {
            q6_k_direct(block, d, 2, codes, sums, scales, acc);
            continue;
        }
        q6_k_expand(block, d, expanded);
#define TILE(tokens, t, fetch) \
    q6_k_tile(expanded, tokens, codes + (t) * 256, sums + (t) * ACTIVATION_SUMS_256, scales + (t), acc + (t) * 16, \
              fetch ? block_q6_k(panel, b + 1) : NULL)
        FOR_TILES(Q6_K_TOKENS, nt, TILE);
#undef TILE
    }
}

/* q6_k_avxvnni.c: Q6_K panels with 256-bit VNNI.
 *
 * A group of 16 k is four dot_4 of unsigned codes that start from -32 times the sum of its
 * activations, so that the int32 sum is that of (code - 32); it is multiplied by the scale and added. */
#define Q6_K_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */
_Static_assert((int64_t)256 * 32 * 128 * 127 <= INT32_MAX, "a block of Q6_K fits in int32");

/* One block, expanded for use by many tokens. */
typedef struct {
    uint8_t q[16][4][64];         /* [group of 16 k][chunk] */
    int32_t scale[16][2][8];      /* [group][half]: a row each */
    float d[16];
} q6_k_vnni_block;
_Static_assert(sizeof(q6_k_vnni_block) <= PANEL_SCRATCH, "a Q6_K block fits in scratch");

V16 __m256i q6_k_vnni_scale_lanes(const packed_q6_k *b, int32_t g, int32_t half)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(b->quarter[g / 4].scales[g % 4] + 8 * half)));
}

V16 void q6_k_vnni_expand(const packed_q6_k *b, const uint16_t *d, q6_k_vnni_block *out)
{
    for (int32_t g = 0; g < 16; ++g)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i q[4];
            q6_k_codes(&b->quarter[g / 4].group[g % 4], half, q);
#pragma GCC unroll 4
            for (int32_t c = 0; c < 4; ++c)
                store_256(out->q[g][c] + 32 * half, q[c]);
            store_256(out->scale[g][half], q6_k_vnni_scale_lanes(b, g, half));
        }
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half)
        _mm256_storeu_ps(out->d + 8 * half, half_scales(d, half));
}

/* A tile of `tokens` tokens (a constant) over an expanded block. codes, sums, scales, acc: of its first
 * token. next: the block to fetch meanwhile, or NULL. */
V16 void q6_k_vnni_tile(const q6_k_vnni_block *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                   const float *scales, float *acc, const packed_q6_k *next)
{
    __m256i total[Q6_K_VNNI_TOKENS][2];
#pragma GCC unroll 6
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t g = 0; g < 16; ++g) {
        if (next) {
            fetch_bytes(&next->quarter[g / 4].group[g % 4], sizeof(packed_q6_k_group));
            if (g % 4 == 0)
                fetch_bytes(next->quarter[g / 4].scales, sizeof next->quarter[g / 4].scales);
        }
        __m256i part[Q6_K_VNNI_TOKENS][2];
#pragma GCC unroll 6
        for (int32_t t = 0; t < tokens; ++t)
            part[t][0] = part[t][1] = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_16 + 2 * g);
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c) {
            __m256i w0 = load_256(b->q[g][c]), w1 = load_256(b->q[g][c] + 32);
            KEEP(w0);
            KEEP(w1);
#pragma GCC unroll 6
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i x = broadcast_4(codes + t * 256 + g * 16 + c * 4);
                part[t][0] = dot_4(part[t][0], w0, x);
                part[t][1] = dot_4(part[t][1], w1, x);
            }
        }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i scale = load_256(b->scale[g][half]);
#pragma GCC unroll 6
            for (int32_t t = 0; t < tokens; ++t)
                total[t][half] = _mm256_add_epi32(total[t][half], _mm256_mullo_epi32(part[t][half], scale));
        }
    }
#pragma GCC unroll 6
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            q6_k_add(acc + t * 16, half, scales[t], total[t][half], _mm256_loadu_ps(b->d + 8 * half));
}

/* A block straight from the panel, for `tokens` (a constant, 1 or 2) tokens. */
V16 void q6_k_vnni_direct(const packed_q6_k *b, const uint16_t *d, int32_t tokens, const int8_t *codes,
                     const int16_t *sums, const float *scales, float *acc)
{
    __m256i total[2][2];
#pragma GCC unroll 2
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
            __m256i q[4], scale = q6_k_vnni_scale_lanes(b, g, half);
            q6_k_codes(group, half, q);
#pragma GCC unroll 2
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i part = broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_16 + 2 * g);
#pragma GCC unroll 4
                for (int32_t c = 0; c < 4; ++c)
                    part = dot_4(part, q[c], broadcast_4(codes + t * 256 + g * 16 + c * 4));
                total[t][half] = _mm256_add_epi32(total[t][half], _mm256_mullo_epi32(part, scale));
            }
        }
    }
#pragma GCC unroll 2
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            q6_k_add(acc + t * 16, half, scales[t], total[t][half], half_scales(d, half));
}

V16 void q6_k_vnni_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    q6_k_vnni_block *expanded = (q6_k_vnni_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 256; ++b) {
        const packed_q6_k *block = block_q6_k(panel, b);
        const uint16_t *d = scales_q6_k(panel, b);
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 256;
        const int16_t *sums = a->sums + at * ACTIVATION_SUMS_256;
        const float *scales = a->scales + at;
        if (nt == 1) {
            q6_k_vnni_direct(block, d, 1, codes, sums, scales, acc);
            continue;
        }
        if (nt == 2) {
            q6_k_vnni_direct(block, d, 2, codes, sums, scales, acc);
            continue;
        }
        q6_k_vnni_expand(block, d, expanded);
#define TILE(tokens, t, fetch) \
    q6_k_vnni_tile(expanded, tokens, codes + (t) * 256, sums + (t) * ACTIVATION_SUMS_256, scales + (t), acc + (t) * 16, \
              fetch ? block_q6_k(panel, b + 1) : NULL)
        FOR_TILES_OF_SIX(Q6_K_VNNI_TOKENS, nt, TILE);
#undef TILE
    }
}

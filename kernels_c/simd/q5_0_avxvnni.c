/* q5_0_avxvnni.c: Q5_0 panels with 256-bit VNNI.
 *
 * Eight dot_4 of unsigned codes start from -16 times the sum of the block's activations. */
#define Q5_0_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */
_Static_assert((int64_t)32 * 31 * 127 + 16 * 32 * 127 <= 1 << 24, "a block of Q5_0 is exact in float");

/* -16 times the sum of the block's activations, which are kept times -128. */
V16 __m256i q5_0_vnni_offset(const int16_t *sums) { return _mm256_srai_epi32(broadcast_4(sums + SUMS_TIMES_128), 3); }

/* A tile of `tokens` tokens (a constant) over expanded blocks, the panel's first .. first+blocks-1.
 * fetch (a constant): has the panel's next blocks come from memory meanwhile. */
V16 void q5_0_vnni_tile(const q5_0_block *block, const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens,
                   int32_t fetch, const activations *a, int32_t t0, float *acc)
{
    for (int32_t b = 0; b < blocks; ++b) {
        if (fetch)
            fetch_bytes(block_q5_0(panel, first + blocks + b), sizeof(packed_q5_0));
        int64_t at = (int64_t)(first + b) * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        __m256i total[Q5_0_VNNI_TOKENS][2];
#pragma GCC unroll 6
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = q5_0_vnni_offset(a->sums + (at + t) * ACTIVATION_SUMS_32);
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            __m256i w0 = load_256(block[b].q[c]), w1 = load_256(block[b].q[c] + 32);
            KEEP(w0);
            KEEP(w1);
#pragma GCC unroll 6
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i x = broadcast_4(codes + t * 32 + c * 4);
                total[t][0] = dot_4(total[t][0], w0, x);
                total[t][1] = dot_4(total[t][1], w1, x);
            }
        }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256 scale = _mm256_loadu_ps(block[b].d + 8 * half);
#pragma GCC unroll 6
            for (int32_t t = 0; t < tokens; ++t)
                add_block_of_32(acc + t * 16, half, a->scales[at + t], total[t][half], scale);
        }
        KEEP_STORED();
    }
}

V16 void q5_0_vnni_direct(const packed_q5_0 *b, const uint16_t *d, const int8_t *codes, const int16_t *sums,
                     float da, float *acc)
{
#pragma GCC unroll 8
    for (int32_t line = 0; line < 5; ++line)
        prefetch((const uint8_t *)b + 64 * line);
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half) {
        __m256i total = q5_0_vnni_offset(sums), other = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c) {
            __m256i low, high;
            q5_0_codes(b, c, half, &low, &high);
            total = dot_4(total, low, broadcast_4(codes + c * 4));
            other = dot_4(other, high, broadcast_4(codes + 16 + c * 4));
        }
        add_block_of_32(acc, half, da, _mm256_add_epi32(total, other), half_scales(d, half));
    }
}

V16 void q5_0_vnni_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    q5_0_block *expanded = (q5_0_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t first = 0; first < k / 32; first += Q5_0_EXPANDED) {
        int32_t blocks = k / 32 - first < Q5_0_EXPANDED ? k / 32 - first : Q5_0_EXPANDED;
        if (nt == 1) {
            for (int32_t b = first; b < first + blocks; ++b) {
                int64_t at = (int64_t)b * a->n_tokens + t0;
                q5_0_vnni_direct(block_q5_0(panel, b), scales_q5_0(panel, b), a->codes + at * 32, a->sums + at * ACTIVATION_SUMS_32,
                            a->scales[at], acc);
            }
            continue;
        }
        for (int32_t b = 0; b < blocks; ++b)
            q5_0_expand(block_q5_0(panel, first + b), scales_q5_0(panel, first + b), expanded + b);
#define TILE(tokens, t, fetch) q5_0_vnni_tile(expanded, panel, first, blocks, tokens, fetch, a, t0 + (t), acc + (t) * 16)
        FOR_TILES_OF_SIX(Q5_0_VNNI_TOKENS, nt, TILE);
#undef TILE
    }
}

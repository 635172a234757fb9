/* q8_0_avxvnni.c: Q8_0 panels with 256-bit VNNI.
 *
 * dot_4 wants unsigned codes: 128 is added to each by flipping its top bit, and a block of 32 starts
 * from -128 times the sum of its activations. */
#define Q8_0_VNNI_TOKENS 6   /* a tile: 12 chains, two ymm of weights, one of activations */
_Static_assert((int64_t)32 * 255 * 127 + 128 * 32 * 127 <= 1 << 24, "a block of Q8_0 is exact in float");

/* Blocks taken together: the weights of this many stay in L1 for all tokens. */
#define Q8_0_VNNI_BLOCKS 8

/* `blocks` blocks, the panel's first .. first+blocks-1, for `tokens` (a constant) tokens from t0 on.
 * fetch (a constant): has the panel's next blocks come from memory meanwhile. */
V16 void q8_0_vnni_tile(const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens, int32_t fetch,
                   const activations *a, int32_t t0, float *acc)
{
    const __m256i top = _mm256_set1_epi8((char)0x80);
    for (int32_t b = first; b < first + blocks; ++b) {
        const packed_q8_0 *block = block_q8_0(panel, b);
        if (fetch)
            fetch_bytes(block_q8_0(panel, b + blocks), sizeof *block);
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        __m256i total[Q8_0_VNNI_TOKENS][2];
#pragma GCC unroll 6
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = broadcast_4(a->sums + (at + t) * ACTIVATION_SUMS_32 + SUMS_TIMES_128);
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            __m256i w0 = _mm256_xor_si256(load_256(block->q[c]), top), w1 = _mm256_xor_si256(load_256(block->q[c] + 32), top);
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
            __m256 d = half_scales(scales_q8_0(panel, b), half);
#pragma GCC unroll 6
            for (int32_t t = 0; t < tokens; ++t)
                add_block_of_32(acc + t * 16, half, a->scales[at + t], total[t][half], d);
        }
        KEEP_STORED();
    }
}

V16 void q8_0_vnni_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    (void)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t first = 0; first < k / 32; first += Q8_0_VNNI_BLOCKS) {
        int32_t blocks = k / 32 - first < Q8_0_VNNI_BLOCKS ? k / 32 - first : Q8_0_VNNI_BLOCKS;
#define TILE(tokens, t, fetch) q8_0_vnni_tile(panel, first, blocks, tokens, fetch, a, t0 + (t), acc + (t) * 16)
        FOR_TILES_OF_SIX(Q8_0_VNNI_TOKENS, nt, TILE);
#undef TILE
    }
}

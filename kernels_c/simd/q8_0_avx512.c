/* q8_0_avx512.c: Q8_0 panels with AVX-512 VNNI.
 *
 * vpdpbusd wants unsigned codes: 128 is added to each by flipping its top bit, and a block of 32
 * starts from -128 times the sum of its activations. */
#define Q8_0_TOKENS 8        /* a tile */
_Static_assert((int64_t)32 * 255 * 127 + 128 * 32 * 127 <= 1 << 24, "a block of Q8_0 is exact in float");

/* Blocks taken together: the weights of this many stay in L1 for all tokens. */
#define Q8_0_BLOCKS 8

/* `blocks` blocks for `tokens` (a constant) tokens; codes, sums, scales: of the first token and block. */
V16 void q8_0_tile(const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens, int64_t n_tokens,
                   const int8_t *codes, const int16_t *sums, const float *scales, float *acc)
{
    const __m512i top = _mm512_set1_epi8((char)0x80);
    __m512 sum[Q8_0_TOKENS];
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        sum[t] = v16_load(acc + t * 16);
    for (int32_t b = 0; b < blocks; ++b) {
        const packed_q8_0 *block = block_q8_0(panel, first + b);
        const int8_t *x = codes + b * n_tokens * 32;
        const int16_t *offset = sums + b * n_tokens * ACTIVATION_SUMS_32 + SUMS_TIMES_128;
        __m512i total[Q8_0_TOKENS];
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            total[t] = broadcast_4(offset + t * ACTIVATION_SUMS_32);
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            prefetch_for(tokens, block->q[c]);
            __m512i w = _mm512_xor_si512(load_512(block->q[c]), top);
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t)
                total[t] = dot_4(total[t], w, x + t * 32 + c * 4);
        }
        add_block_of_32(sum, total, tokens, scales_q8_0(panel, first + b), scales + b * n_tokens);
    }
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        v16_store(acc + t * 16, sum[t]);
}

V16 void q8_0_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    (void)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 32; b += Q8_0_BLOCKS) {
        int32_t blocks = k / 32 - b < Q8_0_BLOCKS ? k / 32 - b : Q8_0_BLOCKS;
        int64_t at = (int64_t)b * a->n_tokens + t0;
#define TILE(tokens, t)                                                                              \
    q8_0_tile(panel, b, blocks, tokens, a->n_tokens, a->codes + (at + (t)) * 32,        \
              a->sums + (at + (t)) * ACTIVATION_SUMS_32, a->scales + at + (t), acc + (t) * 16)
        FOR_TILES(Q8_0_TOKENS, nt, TILE);
#undef TILE
    }
}

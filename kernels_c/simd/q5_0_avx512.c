/* q5_0_avx512.c: Q5_0 panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * Eight vpdpbusd of unsigned codes start from -16 times the sum of the block's activations. */
#define Q5_0_TOKENS 8        /* a tile */
#define Q5_0_BLOCKS 8

/* `blocks` blocks for `tokens` (a constant) tokens; codes, sums, scales: of the first token and block. */
V16 void q5_0_tile(const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens, int64_t n_tokens,
                   const int8_t *codes, const int16_t *sums, const float *scales, float *acc)
{
    __m512 sum[Q5_0_TOKENS];
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        sum[t] = v16_load(acc + t * 16);
    for (int32_t b = 0; b < blocks; ++b) {
        const packed_q5_0 *block = block_q5_0(panel, first + b);
        const int8_t *x = codes + b * n_tokens * 32;
        const int16_t *offset = sums + b * n_tokens * ACTIVATION_SUMS_32 + SUMS_TIMES_128;
        __m512i total[Q5_0_TOKENS], high = load_512(block->high);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            total[t] = _mm512_srai_epi32(broadcast_4(offset + t * ACTIVATION_SUMS_32), 3);
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c) {
            prefetch_for(tokens, block->q[c]);
            __m512i q = load_512(block->q[c]);
            __m512i q0 = byte_join(byte_field(q, 0, 15), high, 4 - c, 16), q1 = byte_join(byte_field(q, 4, 15), high, -c, 16);
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t) {
                total[t] = dot_4(total[t], q0, x + t * 32 + c * 4);
                total[t] = dot_4(total[t], q1, x + t * 32 + c * 4 + 16);
            }
        }
        add_block_of_32(sum, total, tokens, scales_q5_0(panel, first + b), scales + b * n_tokens);
    }
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        v16_store(acc + t * 16, sum[t]);
}

V16 void q5_0_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    (void)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 32; b += Q5_0_BLOCKS) {
        int32_t blocks = k / 32 - b < Q5_0_BLOCKS ? k / 32 - b : Q5_0_BLOCKS;
        int64_t at = (int64_t)b * a->n_tokens + t0;
#define TILE(tokens, t)                                                                              \
    q5_0_tile(panel, b, blocks, tokens, a->n_tokens, a->codes + (at + (t)) * 32,        \
              a->sums + (at + (t)) * ACTIVATION_SUMS_32, a->scales + at + (t), acc + (t) * 16)
        FOR_TILES(Q5_0_TOKENS, nt, TILE);
#undef TILE
    }
}

/* q8_0_avx2.c: Q8_0 panels with AVX2.
 *
 * Up to three tokens take the codes as they are stored: maddubs of |w| and of the activation with w's
 * sign, and madd, which widens each pair at once. All three share the two units that multiply. So
 * for more tokens the codes are widened to int16 beforehand (wide_avx2.c). */
#define Q8_0_TOKENS 4        /* a tile */
_Static_assert(2 * 128 * 127 <= INT16_MAX, "a pair of Q8_0 products fits in int16, -128 included");

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
#pragma GCC unroll 3
                for (int32_t t = 0; t < tokens; ++t) {
                    total[t][half] = add_signed_products(total[t][half], w, broadcast_4(codes + t * 32 + c * 4));
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

V16 void q8_0_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    if (nt == 1)
        return q8_0_direct(panel, k / 32, 1, a, t0, acc);
    if (nt == 2)
        return q8_0_direct(panel, k / 32, 2, a, t0, acc);
    if (nt == 3)
        return q8_0_direct(panel, k / 32, 3, a, t0, acc);
    wide_blocks *wide = (wide_blocks *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t first = 0; first < k / 32; first += WIDE_BLOCKS) {
        int32_t blocks = k / 32 - first < WIDE_BLOCKS ? k / 32 - first : WIDE_BLOCKS;
        for (int32_t b = 0; b < blocks; ++b) {
            for (int32_t half = 0; half < 2; ++half)
                _mm256_storeu_ps(wide->d[b] + 8 * half, half_scales(scales_q8_0(panel, first + b), half));
            for (int32_t c = 0; c < 8; ++c)
#pragma GCC unroll 2
                for (int32_t half = 0; half < 2; ++half) {
                    __m256i w = load_256(block_q8_0(panel, first + b)->q[c] + 32 * half);
                    widen_codes(wide, b, c, half, w);
                }
        }
        const int64_t at = (int64_t)first * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        const float *da = a->scales + at;
#define TILE(tokens, t, fetch) \
    wide_tile(wide, blocks, tokens, codes + (t) * 32, da + (t), a->n_tokens, acc + (t) * 16, \
              fetch ? (const char *)block_q8_0(panel, first + blocks) : NULL, sizeof(packed_q8_0))
        FOR_TILES(Q8_0_TOKENS, nt, TILE);
#undef TILE
    }
}

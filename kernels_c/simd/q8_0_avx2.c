/* q8_0_avx2.c: Q8_0 panels with AVX2.
 *
 * maddubs takes |w| as its unsigned operand and the activation with w's sign as the other:
 * 2 * 128 * 127 fits, -128 included. Each pair widens at once. */
_Static_assert(2 * 128 * 127 <= INT16_MAX, "a pair of Q8_0 products fits in int16");
_Static_assert(Q8_0_TOKENS == 3, "the last tile has 1 or 2 tokens");

/* I of a block of 32, rows 8*half .. +7, for one token. */
V16 __m256i q8_0_step(__m256i total, __m256i w, __m256i magnitude, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* fetch (a constant): whether this tile is the first of several, which has the panel come from memory. */
V16 void q8_0_tile(const uint8_t *panel, int32_t blocks, int32_t tokens, int32_t fetch,
                   const activations *a, int32_t t0, float *acc)
{
    __m256 sum[4][2];
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
        sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    for (int32_t b = 0; b < blocks; ++b) {
        const packed_q8_0 *block = block_q8_0(panel, b);
        const uint16_t *d = scales_q8_0(panel, b);
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        __m256i total[4][2];
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c)
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i w = load_256(block->q[c] + 32 * half);
                __m256i magnitude = _mm256_abs_epi8(w);
                if (fetch && half == 0)
                    prefetch(block->q[c]);
#pragma GCC unroll 4
                for (int32_t t = 0; t < tokens; ++t) {
                    total[t][half] = q8_0_step(total[t][half], w, magnitude, broadcast_4(codes + t * 32 + c * 4));
                    KEEP(total[t][half]);
                }
            }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256 scale = half_scales(d, half);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t) {
                __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(a->scales[at + t]));
                sum[t][half] = _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(total[t][half]), sum[t][half]);
            }
        }
    }
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            _mm256_storeu_ps(acc + t * 16 + 8 * half, sum[t][half]);
}

V16 void q8_0_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    (void)scratch;
    int32_t t = 0;
    if (nt > Q8_0_TOKENS) {
        q8_0_tile(panel, k / 32, Q8_0_TOKENS, 1, a, t0, acc);
        t = Q8_0_TOKENS;
    }
    for (; t + Q8_0_TOKENS <= nt; t += Q8_0_TOKENS)
        q8_0_tile(panel, k / 32, Q8_0_TOKENS, 0, a, t0 + t, acc + t * 16);
    if (nt - t == 2)
        q8_0_tile(panel, k / 32, 2, 0, a, t0 + t, acc + t * 16);
    else if (nt - t == 1)
        q8_0_tile(panel, k / 32, 1, 0, a, t0 + t, acc + t * 16);
}

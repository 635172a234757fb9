/* iq4_nl_avx2.c: IQ4_NL panels with AVX2.
 *
 * One shuffle turns 32 codes into their values, signed bytes; from there on all is as for Q8_0. */
#define IQ4_NL_TOKENS 4      /* a tile */
_Static_assert(2 * 127 * 127 <= INT16_MAX, "a pair of IQ4_NL products fits in int16");

/* The values of chunks c and c + 4, rows 8*half .. +7. */
V16 void iq4_nl_values(const packed_iq4_nl *b, int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    const __m256i value = _mm256_setr_epi8(IQ4_NL_VALUES, IQ4_NL_VALUES), nibble = _mm256_set1_epi8(15);
    __m256i q = load_256(b->q[c] + 32 * half);
    *low = _mm256_shuffle_epi8(value, _mm256_and_si256(q, nibble));
    *high = _mm256_shuffle_epi8(value, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble));
}

/* A whole panel of `blocks` blocks for `tokens` (a constant) tokens. */
V16 void iq4_nl_direct(const uint8_t *panel, int32_t blocks, int32_t tokens, const activations *a, int32_t t0, float *acc)
{
    __m256 sum[3][2];
#pragma GCC unroll 3
    for (int32_t t = 0; t < tokens; ++t)
        sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    for (int32_t b = 0; b < blocks; ++b) {
        const packed_iq4_nl *block = block_iq4_nl(panel, b);
#pragma GCC unroll 4
        for (int32_t line = 0; line < 4; ++line)
            prefetch(block->q[line]);
        const uint16_t *d = scales_iq4_nl(panel, b);
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        __m256i total[3][2];
#pragma GCC unroll 3
        for (int32_t t = 0; t < tokens; ++t)
            total[t][0] = total[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c)
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i low, high;
                iq4_nl_values(block, c, half, &low, &high);
#pragma GCC unroll 3
                for (int32_t t = 0; t < tokens; ++t) {
                    const int8_t *x = codes + t * 32 + c * 4;
                    total[t][half] = add_signed_products(total[t][half], low, broadcast_4(x));
                    total[t][half] = add_signed_products(total[t][half], high, broadcast_4(x + 16));
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

V16 void iq4_nl_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    if (nt == 1)
        return iq4_nl_direct(panel, k / 32, 1, a, t0, acc);
    if (nt == 2)
        return iq4_nl_direct(panel, k / 32, 2, a, t0, acc);
    if (nt == 3)
        return iq4_nl_direct(panel, k / 32, 3, a, t0, acc);
    wide_blocks *wide = (wide_blocks *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t first = 0; first < k / 32; first += WIDE_BLOCKS) {
        int32_t blocks = k / 32 - first < WIDE_BLOCKS ? k / 32 - first : WIDE_BLOCKS;
        for (int32_t b = 0; b < blocks; ++b) {
            for (int32_t half = 0; half < 2; ++half)
                _mm256_storeu_ps(wide->d[b] + 8 * half, half_scales(scales_iq4_nl(panel, first + b), half));
            for (int32_t c = 0; c < 4; ++c)
#pragma GCC unroll 2
                for (int32_t half = 0; half < 2; ++half) {
                    __m256i low, high;
                    iq4_nl_values(block_iq4_nl(panel, first + b), c, half, &low, &high);
                    widen_codes(wide, b, c, half, low);
                    widen_codes(wide, b, c + 4, half, high);
                }
        }
        const int64_t at = (int64_t)first * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        const float *da = a->scales + at;
#define TILE(tokens, t, fetch) \
    wide_tile(wide, blocks, tokens, codes + (t) * 32, da + (t), a->n_tokens, acc + (t) * 16, \
              fetch ? (const char *)block_iq4_nl(panel, first + blocks) : NULL, sizeof(packed_iq4_nl))
        FOR_TILES(IQ4_NL_TOKENS, nt, TILE);
#undef TILE
    }
}

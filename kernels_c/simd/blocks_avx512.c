/* blocks_avx512.c: what the AVX-512 integer cores share. A chunk of 16 rows is one zmm; vpdpbusd
 * adds four products of unsigned codes and signed activations to an int32 lane and cannot saturate. */
V16 __m512i load_512(const void *p) { return _mm512_loadu_si512(p); }

/* Four bytes (four codes, two sums, or one int32) to all lanes. */
V16 __m512i broadcast_4(const void *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

/* 16 fp16 scales. */
V16 __m512 half_scales(const uint16_t *d) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)d)); }

/* total + sum of four products of codes (unsigned) and x (signed). */
V16 __m512i dot_4(__m512i total, __m512i codes, const int8_t *x) { return _mm512_dpbusd_epi32(total, codes, broadcast_4(x)); }

/* (code >> shift) & mask in every byte; shift and mask are constants. */
V16 __m512i byte_field(__m512i bytes, int32_t shift, int32_t mask)
{
    return _mm512_and_si512(shift ? _mm512_srli_epi16(bytes, (uint32_t)shift) : bytes, _mm512_set1_epi8((char)mask));
}

/* low | (bytes shifted left, or right where `left` is negative) & mask: joins the parts of a code. */
V16 __m512i byte_join(__m512i low, __m512i bytes, int32_t left, int32_t mask)
{
    __m512i shifted = left > 0   ? _mm512_slli_epi16(bytes, (uint32_t)left)
                      : left < 0 ? _mm512_srli_epi16(bytes, (uint32_t)-left)
                                 : bytes;
    return _mm512_ternarylogic_epi32(low, shifted, _mm512_set1_epi8((char)mask), 0xf8); /* a | b & c */
}

/* A panel is one stream, which the CPU's own prefetchers follow; with more tokens than two the
 * arithmetic takes long enough for them to lose it. Bytes ahead of the line at hand. */
#define PREFETCH_AHEAD 4096
V16 void prefetch_for(int32_t tokens, const void *p)
{
    if (tokens > 2)
        _mm_prefetch((const char *)p + PREFETCH_AHEAD, _MM_HINT_T0);
}

/* sum[t] = fma(d * da[t], float(total[t]), sum[t]) for `tokens` (a constant): a block of 32. */
V16 void add_block_of_32(__m512 *sum, const __m512i *total, int32_t tokens, const uint16_t *d, const float *da)
{
    __m512 scale = half_scales(d);
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        sum[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(da[t])), _mm512_cvtepi32_ps(total[t]), sum[t]);
}

/* sum[t] = fma(da[t], fma(m, A[t], d * float(total[t])), sum[t]) for `tokens` (a constant): a block of 32 with
 * a minimum; A: the sum of its activations. */
V16 void add_affine_of_32(__m512 *sum, const __m512i *total, int32_t tokens, const uint16_t *d, const uint16_t *m,
                          const float *da, const int16_t *sums)
{
    __m512 scale = half_scales(d), minimum = half_scales(m);
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t) {
        const int16_t *s = sums + t * ACTIVATION_SUMS_32;
        __m512 all = _mm512_set1_ps((float)(s[0] + s[1]));
        __m512 term = _mm512_fmadd_ps(minimum, all, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(total[t])));
        sum[t] = _mm512_fmadd_ps(_mm512_set1_ps(da[t]), term, sum[t]);
    }
}

/* The float steps of WALK_32: scales in pairs, and blocks that hold scales and minima. */
#define ADD_SCALED(format) \
    add_block_of_32(sum, total, tokens, scales_##format(panel, first + b), scales + b * n_tokens)
#define ADD_AFFINE(format)                                                                          \
    add_affine_of_32(sum, total, tokens, block_##format(panel, first + b)->d,                       \
                     block_##format(panel, first + b)->m, scales + b * n_tokens,                    \
                     sums + b * n_tokens * ACTIVATION_SUMS_32)

/* Runs tile(format, tokens, t) over nt tokens, most at a time; `tokens` is a constant in each call. */
#define FOR_TILES(most, nt, tile, format)                           \
    do {                                                            \
        _Static_assert((most) == 8, "a remainder is halved");       \
        int32_t t = 0;                                              \
        for (; t + (most) <= (nt); t += (most))                     \
            tile(format, most, t);                                  \
        if ((nt) - t >= 4) {                                        \
            tile(format, 4, t);                                     \
            t += 4;                                                 \
        }                                                           \
        if ((nt) - t >= 2) {                                        \
            tile(format, 2, t);                                     \
            t += 2;                                                 \
        }                                                           \
        if (t < (nt))                                               \
            tile(format, 1, t);                                     \
    } while (0)

/* The walk over a panel of blocks of 32. A format's file brings <FORMAT>_TOKENS (a tile), <FORMAT>_BLOCKS
 * (taken together: the weights of so many stay in L1 for all tokens) and its unpacking:
 *   <format>_block(block, tokens, codes, sums, total): total[t], the int32 sum of a block's products for
 *   `tokens` (a constant) tokens; codes, sums: of the first.
 * add(format): the float step of a block, one of those above. */
#define WALK_32(format, most, together) WALK_32_WITH(format, most, together, ADD_SCALED)
#define WALK_32_WITH(format, most, together, add)                                                                 \
    V16 void format##_tile(const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens, int64_t n_tokens, \
                           const int8_t *codes, const int16_t *sums, const float *scales, float *acc)             \
    {                                                                                                             \
        __m512 sum[most];                                                                                         \
        _Pragma("GCC unroll 8")                                                                                   \
        for (int32_t t = 0; t < tokens; ++t)                                                                      \
            sum[t] = v16_load(acc + t * 16);                                                                      \
        for (int32_t b = 0; b < blocks; ++b) {                                                                    \
            __m512i total[most];                                                                                  \
            format##_block(block_##format(panel, first + b), tokens, codes + b * n_tokens * 32,                   \
                           sums + b * n_tokens * ACTIVATION_SUMS_32, total);                                      \
            add(format);                                                                                          \
        }                                                                                                         \
        _Pragma("GCC unroll 8")                                                                                   \
        for (int32_t t = 0; t < tokens; ++t)                                                                      \
            v16_store(acc + t * 16, sum[t]);                                                                      \
    }                                                                                                             \
    V16 void format##_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,        \
                            float *acc, uint8_t *scratch)                                                         \
    {                                                                                                             \
        (void)scratch;                                                                                            \
        memset(acc, 0, sizeof(float) * 16 * (size_t)nt);                                                          \
        for (int32_t b = 0; b < k / 32; b += (together)) {                                                        \
            int32_t blocks = k / 32 - b < (together) ? k / 32 - b : (together);                                   \
            int64_t at = (int64_t)b * a->n_tokens + t0;                                                           \
            FOR_TILES(most, nt, TILE_32, format);                                                                 \
        }                                                                                                         \
    }
#define TILE_32(format, tokens, t)                                                   \
    format##_tile(panel, b, blocks, tokens, a->n_tokens, a->codes + (at + (t)) * 32, \
                  a->sums + (at + (t)) * ACTIVATION_SUMS_32, a->scales + at + (t), acc + (t) * 16)

/* The walk over a panel of superblocks, 256 k each. A format's file brings <FORMAT>_TOKENS and
 *   <format>_open(panel, b): what the tiles of block b share, taken out of it once, as <format>_opened;
 *   <format>_tile(panel, b, &opened, tokens, codes, sums, scales, acc): acc += the block, for `tokens`
 *   (a constant) tokens; codes, sums, scales, acc: of the first. */
#define WALK_256(format, most)                                                                             \
    V16 void format##_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt, \
                            float *acc, uint8_t *scratch)                                                  \
    {                                                                                                      \
        (void)scratch;                                                                                     \
        memset(acc, 0, sizeof(float) * 16 * (size_t)nt);                                                   \
        for (int32_t b = 0; b < k / 256; ++b) {                                                            \
            int64_t at = (int64_t)b * a->n_tokens + t0;                                                    \
            const int8_t *codes = a->codes + at * 256;                                                     \
            const int16_t *sums = a->sums + at * ACTIVATION_SUMS_256;                                      \
            const float *scales = a->scales + at;                                                          \
            const format##_opened opened = format##_open(panel, b);                                        \
            FOR_TILES(most, nt, TILE_256, format);                                                         \
        }                                                                                                  \
    }
#define TILE_256(format, tokens, t) \
    format##_tile(panel, b, &opened, tokens, codes + (t) * 256, sums + (t) * ACTIVATION_SUMS_256, scales + (t), acc + (t) * 16)

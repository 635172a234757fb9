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

/* Runs tile(tokens, t) over nt tokens, most at a time; `tokens` is a constant in each call. */
#define FOR_TILES(most, nt, tile)                                   \
    do {                                                            \
        _Static_assert((most) == 8, "a remainder is halved");        \
        int32_t t = 0;                                              \
        for (; t + (most) <= (nt); t += (most))                     \
            tile((most), t);                                        \
        if ((nt) - t >= 4) {                                        \
            tile(4, t);                                             \
            t += 4;                                                 \
        }                                                           \
        if ((nt) - t >= 2) {                                        \
            tile(2, t);                                             \
            t += 2;                                                 \
        }                                                           \
        if (t < (nt))                                               \
            tile(1, t);                                             \
    } while (0)

/* q4_k_amx.c: Q4_K panels over tiles.
 *
 * The scale of a sub-block goes into its codes, so that one chain of products covers a block: scale =
 * low + 8 * high, and code * low, code * high are bytes. Two codes share a 16-bit lane, and neither
 * product carries into the other. */
_Static_assert(15 * 7 <= UINT8_MAX, "a digit times a code of Q4_K is a byte");
#define Q4_K_AMX_TOKENS 32   /* a tile pair */

/* What the float step of a block needs. */
typedef struct {
    q4_k_opened s;
    float d[16], minus_dmin[16];
} q4_k_amx_block;

/* 16 bytes as pairs of int16, the same in both. */
V16 __m512i q4_k_amx_pairs(const uint8_t *s)
{
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)s));
    return _mm512_or_si512(x, _mm512_slli_epi32(x, 16));
}

/* Quarter p of block b, as digits: chunks 16p .. 16p+15. */
V16 void q4_k_amx_digits(const uint8_t *panel, int32_t b, int32_t p, amx_digits *out, q4_k_amx_block *block)
{
    const packed_q4_k *packed = (const packed_q4_k *)panel + b;
    if (p == 0) {
        block->s = q4_k_open(panel, b);
        v16_store(block->d, half_scales(packed->d));
        v16_store(block->minus_dmin, v16_negative(half_scales(packed->dmin)));
    }
    const __m512i s0 = q4_k_amx_pairs(block->s.scale[2 * p]), s1 = q4_k_amx_pairs(block->s.scale[2 * p + 1]);
    const __m512i seven = _mm512_set1_epi16(7);
    const __m512i low0 = _mm512_and_si512(s0, seven), high0 = _mm512_srli_epi16(s0, 3);
    const __m512i low1 = _mm512_and_si512(s1, seven), high1 = _mm512_srli_epi16(s1, 3);
#pragma GCC unroll 8
    for (int32_t c = 0; c < 8; ++c) {
        __m512i q = load_512(packed->q[8 * p + c]);
        __m512i q0 = byte_field(q, 0, 15), q1 = byte_field(q, 4, 15);
        _mm512_storeu_si512(out->low[16 * p + c], _mm512_mullo_epi16(q0, low0));
        _mm512_storeu_si512(out->high[16 * p + c], _mm512_mullo_epi16(q0, high0));
        _mm512_storeu_si512(out->low[16 * p + 8 + c], _mm512_mullo_epi16(q1, low1));
        _mm512_storeu_si512(out->high[16 * p + 8 + c], _mm512_mullo_epi16(q1, high1));
    }
}
#define q4_k_amx_dot_high tile_dot_unsigned

/* Tokens from .. to-1 of a tile: low, high: its sums; sums, scales, acc: of its first token. */
V16 void q4_k_amx_rows_out(const q4_k_amx_block *block, const int32_t (*low)[16], const int32_t (*high)[16], int32_t from,
                           int32_t to, const int16_t *sums, const float *scales, float *acc)
{
    __m512 d = v16_load(block->d), minus_dmin = v16_load(block->minus_dmin);
    __m512i mins[4];
#pragma GCC unroll 4
    for (int32_t j = 0; j < 4; ++j)
        mins[j] = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)block->s.min[j]));
    for (int32_t t = from; t < to; ++t) {
        __m512i total = _mm512_add_epi32(load_512(low[t]), _mm512_slli_epi32(load_512(high[t]), 3));
        __m512i minima = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int32_t j = 0; j < 4; ++j)
            minima = _mm512_dpwssd_epi32(minima, mins[j], broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j));
        __m512 term = _mm512_mul_ps(d, _mm512_cvtepi32_ps(total));
        term = _mm512_fmadd_ps(minus_dmin, _mm512_cvtepi32_ps(minima), term);
        v16_store(acc + t * 16, _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), term, v16_load(acc + t * 16)));
    }
}

/* groups_avx512.c: what superblocks with integer scales and minima share. */

/* Eight scales and minima of six bits (low, high of packed_q4_k.h) taken out: as bytes a row, minima in pairs. */
typedef struct {
    uint8_t scale[8][16];         /* [sub-block][row] */
    uint8_t min[4][16][2];        /* [pair of sub-blocks][row] */
} opened_scales_of_6;

V16 opened_scales_of_6 open_scales_of_6(const uint8_t (*packed_low)[16], const uint8_t (*packed_high)[16])
{
    opened_scales_of_6 opened, *out = &opened;
    __m512i low = load_512(packed_low), low4 = load_512(packed_low[4]), high = load_512(packed_high);
    _mm512_storeu_si512(out->scale[0], byte_join(byte_field(low, 0, 15), high, 4, 0x30));
    _mm512_storeu_si512(out->scale[4], byte_join(byte_field(low4, 0, 15), high, 2, 0x30));
    __m512i min = byte_join(byte_field(low, 4, 15), high, 0, 0x30);
    __m512i min4 = byte_join(byte_field(low4, 4, 15), high, -2, 0x30);
    /* Rows of sub-block 2j lie in the even 16 bytes, of 2j+1 in the odd ones: interleave them. */
    const __m512i first = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), second = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    __m512i even = _mm512_permutex2var_epi64(min, first, min4), odd = _mm512_permutex2var_epi64(min, second, min4);
    __m512i lower = _mm512_unpacklo_epi8(even, odd), upper = _mm512_unpackhi_epi8(even, odd);
    const __m512i pair01 = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), pair23 = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    _mm512_storeu_si512(out->min[0], _mm512_permutex2var_epi64(lower, pair01, upper));
    _mm512_storeu_si512(out->min[2], _mm512_permutex2var_epi64(lower, pair23, upper));
    return opened;
}

/* acc[t] = fma(da, fma(-dmin, M, d * I), acc[t]) for `tokens` (a constant) tokens. */
V16 void add_with_minima(const __m512i *total, const __m512i *minima, int32_t tokens, const uint16_t *d,
                         const uint16_t *dmin, const float *scales, float *acc)
{
    __m512 factor = half_scales(d), minus_dmin = v16_negative(half_scales(dmin));
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t) {
        __m512 term = _mm512_mul_ps(factor, _mm512_cvtepi32_ps(total[t]));
        term = _mm512_fmadd_ps(minus_dmin, _mm512_cvtepi32_ps(minima[t]), term);
        v16_store(acc + t * 16, _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), term, v16_load(acc + t * 16)));
    }
}

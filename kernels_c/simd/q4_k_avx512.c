/* q4_k_avx512.c: Q4_K panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * A sub-block of 32 k is eight vpdpbusd; its int32 sum is multiplied by the scale and added. The
 * minima of two sub-blocks are one vpdpwssd: lanes (min 2j, min 2j+1) times (sum 2j, sum 2j+1). */
#define Q4_K_TOKENS 8        /* a tile */
_Static_assert((int64_t)256 * 15 * 63 * 127 <= INT32_MAX, "a block of Q4_K fits in int32");

/* A block with its scales taken out: as bytes a row, minima in pairs. */
typedef struct {
    uint8_t scale[8][16];         /* [sub-block][row] */
    uint8_t min[4][16][2];        /* [pair of sub-blocks][row] */
} q4_k_opened;

V16 q4_k_opened q4_k_open(const uint8_t *panel, int32_t number)
{
    q4_k_opened opened, *out = &opened;
    const packed_q4_k *b = (const packed_q4_k *)panel + number;
    __m512i low = load_512(b->low[0]), low4 = load_512(b->low[4]), high = load_512(b->high[0]);
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

V16 void q4_k_tile(const uint8_t *panel, int32_t number, const q4_k_opened *s, int32_t tokens, const int8_t *codes,
                   const int16_t *sums, const float *scales, float *acc)
{
    const packed_q4_k *b = (const packed_q4_k *)panel + number;
    __m512i total[Q4_K_TOKENS], minima[Q4_K_TOKENS];
    for (int32_t j = 0; j < 4; ++j) {
        __m512i low[Q4_K_TOKENS], high[Q4_K_TOKENS];
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            low[t] = high[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            __m512i q = load_512(b->q[8 * j + c]);
            prefetch_for(tokens, b->q[8 * j + c]);
            __m512i q0 = byte_field(q, 0, 15), q1 = byte_field(q, 4, 15);
#pragma GCC unroll 8
            for (int32_t t = 0; t < tokens; ++t) {
                const int8_t *x = codes + t * 256 + j * 64 + c * 4;
                low[t] = dot_4(low[t], q0, x);
                high[t] = dot_4(high[t], q1, x + 32);
            }
        }
        __m512i scale0 = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)s->scale[2 * j]));
        __m512i scale1 = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)s->scale[2 * j + 1]));
        __m512i mins = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)s->min[j]));
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            __m512i both = _mm512_add_epi32(_mm512_mullo_epi32(low[t], scale0), _mm512_mullo_epi32(high[t], scale1));
            total[t] = j ? _mm512_add_epi32(total[t], both) : both;
            minima[t] = _mm512_dpwssd_epi32(j ? minima[t] : _mm512_setzero_si512(), mins,
                                            broadcast_4(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_32 + 2 * j));
        }
    }
    __m512 d = half_scales(b->d), minus_dmin = v16_negative(half_scales(b->dmin));
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t) {
        __m512 term = _mm512_mul_ps(d, _mm512_cvtepi32_ps(total[t]));
        term = _mm512_fmadd_ps(minus_dmin, _mm512_cvtepi32_ps(minima[t]), term);
        v16_store(acc + t * 16, _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), term, v16_load(acc + t * 16)));
    }
}

WALK_256(q4_k, Q4_K_TOKENS)

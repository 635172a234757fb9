/* q6_k_amx.c: Q6_K panels over tiles.
 *
 * The scale of a group goes into its codes: scale * (code - 32) = low + 256 * high, low an unsigned byte,
 * high a signed one, so that one chain of products covers a block. */
_Static_assert(128 * 32 <= INT16_MAX, "a scaled code of Q6_K fits in int16");
_Static_assert(2 * 63 * 128 <= INT16_MAX, "maddubs of Q6_K codes and scales does not saturate");
#define Q6_K_AMX_TOKENS 32   /* a tile pair */

/* What the float step of a block needs. */
typedef struct {
    float d[16];
} q6_k_amx_block;

/* A chunk of codes as digits. even, odd: (s, 0), (0, s) a pair of codes; offset: 32 * s as int16. */
V16 void q6_k_amx_chunk(__m512i codes, __m512i even, __m512i odd, __m512i offset, uint8_t *low, uint8_t *high)
{
    __m512i v0 = _mm512_sub_epi16(_mm512_maddubs_epi16(codes, even), offset);
    __m512i v1 = _mm512_sub_epi16(_mm512_maddubs_epi16(codes, odd), offset);
    const __m512i lower = _mm512_set1_epi16(0x00ff), upper = _mm512_set1_epi16((int16_t)0xff00);
    _mm512_storeu_si512(low, _mm512_ternarylogic_epi32(_mm512_slli_epi16(v1, 8), v0, lower, 0xf8)); /* a | b & c */
    _mm512_storeu_si512(high, _mm512_ternarylogic_epi32(_mm512_srli_epi16(v0, 8), v1, upper, 0xf8));
}

/* Quarter p of block b, as digits: chunks 16p .. 16p+15. */
V16 void q6_k_amx_digits(const uint8_t *panel, int32_t b, int32_t p, amx_digits *out, q6_k_amx_block *block)
{
    const packed_q6_k *packed = block_q6_k(panel, b);
    if (p == 0)
        v16_store(block->d, half_scales(scales_q6_k(panel, b)));
    for (int32_t g = 0; g < 4; ++g) {
        const packed_q6_k_group *group = &packed->quarter[p].group[g];
        __m512i s = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)packed->quarter[p].scales[g]));
        __m512i wide = _mm512_and_si512(s, _mm512_set1_epi32(0xffff));
        __m512i offset = _mm512_slli_epi16(_mm512_or_si512(wide, _mm512_slli_epi32(s, 16)), 5);
        __m512i byte = _mm512_and_si512(s, _mm512_set1_epi32(0xff));
        __m512i even = _mm512_or_si512(byte, _mm512_slli_epi32(byte, 16)), odd = _mm512_slli_epi16(even, 8);
        __m512i l0 = load_512(group->ql[0]), l1 = load_512(group->ql[1]), h = load_512(group->qh);
        uint8_t(*low)[64] = out->low + 16 * p + 4 * g, (*high)[64] = out->high + 16 * p + 4 * g;
        q6_k_amx_chunk(byte_join(byte_field(l0, 0, 15), h, 4, 0x30), even, odd, offset, low[0], high[0]);
        q6_k_amx_chunk(byte_join(byte_field(l0, 4, 15), h, 2, 0x30), even, odd, offset, low[1], high[1]);
        q6_k_amx_chunk(byte_join(byte_field(l1, 0, 15), h, 0, 0x30), even, odd, offset, low[2], high[2]);
        q6_k_amx_chunk(byte_join(byte_field(l1, 4, 15), h, -2, 0x30), even, odd, offset, low[3], high[3]);
    }
}
#define q6_k_amx_dot_high tile_dot_signed

/* Tokens from .. to-1 of a tile: low, high: its sums; scales, acc: of its first token. */
V16 void q6_k_amx_rows_out(const q6_k_amx_block *block, const int32_t (*low)[16], const int32_t (*high)[16], int32_t from,
                           int32_t to, const int16_t *sums, const float *scales, float *acc)
{
    (void)sums;
    __m512 d = v16_load(block->d);
    for (int32_t t = from; t < to; ++t) {
        __m512i total = _mm512_add_epi32(load_512(low[t]), _mm512_slli_epi32(load_512(high[t]), 8));
        __m512 term = _mm512_mul_ps(d, _mm512_cvtepi32_ps(total));
        v16_store(acc + t * 16, _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), term, v16_load(acc + t * 16)));
    }
}

/* q5_0_amx.c: Q5_0 panels over tiles: (code - 16) as signed bytes. */
#define Q5_0_AMX_TOKENS 16   /* a tile */

/* Unpacks block b into `plane` and returns it. */
V16 const int8_t *q5_0_amx_codes(const uint8_t *panel, int32_t b, int8_t (*plane)[64])
{
    const packed_q5_0 *block = block_q5_0(panel, b);
    const __m512i sixteen = _mm512_set1_epi8(16);
    __m512i high = load_512(block->high);
#pragma GCC unroll 4
    for (int32_t c = 0; c < 4; ++c) {
        __m512i q = load_512(block->q[c]);
        _mm512_storeu_si512(plane[c], _mm512_sub_epi8(byte_join(byte_field(q, 0, 15), high, 4 - c, 16), sixteen));
        _mm512_storeu_si512(plane[c + 4], _mm512_sub_epi8(byte_join(byte_field(q, 4, 15), high, -c, 16), sixteen));
    }
    return plane[0];
}

/* q4_0_amx.c: Q4_0 panels over tiles: (code - 8) as signed bytes. */
#define Q4_0_AMX_TOKENS 16   /* a tile */

/* Unpacks block b into `plane` and returns it. */
V16 const int8_t *q4_0_amx_codes(const uint8_t *panel, int32_t b, int8_t (*plane)[64])
{
    const packed_q4_0 *block = block_q4_0(panel, b);
    const __m512i eight = _mm512_set1_epi8(8);
#pragma GCC unroll 4
    for (int32_t c = 0; c < 4; ++c) {
        __m512i q = load_512(block->q[c]);
        _mm512_storeu_si512(plane[c], _mm512_sub_epi8(byte_field(q, 0, 15), eight));
        _mm512_storeu_si512(plane[c + 4], _mm512_sub_epi8(byte_field(q, 4, 15), eight));
    }
    return plane[0];
}

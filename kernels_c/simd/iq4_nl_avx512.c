/* iq4_nl_avx512.c: IQ4_NL panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * One shuffle turns codes into values plus 128, for vpdpbusd wants them unsigned; a block of 32 starts
 * from -128 times the sum of its activations. */
#define IQ4_NL_TOKENS 8        /* a tile */
#define IQ4_NL_BLOCKS 8

V16 void iq4_nl_block(const packed_iq4_nl *block, int32_t tokens, const int8_t *codes, const int16_t *sums, __m512i *total)
{
    static const int8_t values[64] = {IQ4_NL_VALUES, IQ4_NL_VALUES, IQ4_NL_VALUES, IQ4_NL_VALUES};
    const __m512i table = _mm512_xor_si512(load_512(values), _mm512_set1_epi8((char)0x80));
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = broadcast_4(sums + t * ACTIVATION_SUMS_32 + SUMS_TIMES_128);
#pragma GCC unroll 4
    for (int32_t c = 0; c < 4; ++c) {
        prefetch_for(tokens, block->q[c]);
        __m512i q = load_512(block->q[c]);
        __m512i q0 = _mm512_shuffle_epi8(table, byte_field(q, 0, 15));
        __m512i q1 = _mm512_shuffle_epi8(table, byte_field(q, 4, 15));
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            total[t] = dot_4(total[t], q0, codes + t * 32 + c * 4);
            total[t] = dot_4(total[t], q1, codes + t * 32 + c * 4 + 16);
        }
    }
}

WALK_32(iq4_nl, IQ4_NL_TOKENS, IQ4_NL_BLOCKS)

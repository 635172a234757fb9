/* q5_1_avx512.c: Q5_1 panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * Eight vpdpbusd of unsigned codes. */
#define Q5_1_TOKENS 8        /* a tile */
#define Q5_1_BLOCKS 8

V16 void q5_1_block(const packed_q5_1 *block, int32_t tokens, const int8_t *codes, const int16_t *sums, __m512i *total)
{
    (void)sums;
    __m512i high = load_512(block->high);
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int32_t c = 0; c < 4; ++c) {
        prefetch_for(tokens, block->q[c]);
        __m512i q = load_512(block->q[c]);
        __m512i q0 = byte_join(byte_field(q, 0, 15), high, 4 - c, 16), q1 = byte_join(byte_field(q, 4, 15), high, -c, 16);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            total[t] = dot_4(total[t], q0, codes + t * 32 + c * 4);
            total[t] = dot_4(total[t], q1, codes + t * 32 + c * 4 + 16);
        }
    }
}

WALK_32_WITH(q5_1, Q5_1_TOKENS, Q5_1_BLOCKS, ADD_AFFINE)

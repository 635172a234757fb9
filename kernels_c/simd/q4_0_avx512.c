/* q4_0_avx512.c: Q4_0 panels with AVX-512 VNNI, codes unpacked in registers.
 *
 * Eight vpdpbusd of unsigned codes start from -8 times the sum of the block's activations. */
#define Q4_0_TOKENS 8        /* a tile */
#define Q4_0_BLOCKS 8

V16 void q4_0_block(const packed_q4_0 *block, int32_t tokens, const int8_t *codes, const int16_t *sums, __m512i *total)
{
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = _mm512_srai_epi32(broadcast_4(sums + t * ACTIVATION_SUMS_32 + SUMS_TIMES_128), 4);
#pragma GCC unroll 4
    for (int32_t c = 0; c < 4; ++c) {
        prefetch_for(tokens, block->q[c]);
        __m512i q = load_512(block->q[c]);
        __m512i q0 = byte_field(q, 0, 15), q1 = byte_field(q, 4, 15);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t) {
            total[t] = dot_4(total[t], q0, codes + t * 32 + c * 4);
            total[t] = dot_4(total[t], q1, codes + t * 32 + c * 4 + 16);
        }
    }
}

WALK_32(q4_0, Q4_0_TOKENS, Q4_0_BLOCKS)

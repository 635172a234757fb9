/* q8_0_avx512.c: Q8_0 panels with AVX-512 VNNI.
 *
 * vpdpbusd wants unsigned codes: 128 is added to each by flipping its top bit, and a block of 32
 * starts from -128 times the sum of its activations. */
#define Q8_0_TOKENS 8        /* a tile */
_Static_assert((int64_t)32 * 255 * 127 + 128 * 32 * 127 <= 1 << 24, "a block of Q8_0 is exact in float");

/* Blocks taken together: the weights of this many stay in L1 for all tokens. */
#define Q8_0_BLOCKS 8

V16 void q8_0_block(const packed_q8_0 *block, int32_t tokens, const int8_t *codes, const int16_t *sums, __m512i *total)
{
    const __m512i top = _mm512_set1_epi8((char)0x80);
#pragma GCC unroll 8
    for (int32_t t = 0; t < tokens; ++t)
        total[t] = broadcast_4(sums + t * ACTIVATION_SUMS_32 + SUMS_TIMES_128);
#pragma GCC unroll 8
    for (int32_t c = 0; c < 8; ++c) {
        prefetch_for(tokens, block->q[c]);
        __m512i w = _mm512_xor_si512(load_512(block->q[c]), top);
#pragma GCC unroll 8
        for (int32_t t = 0; t < tokens; ++t)
            total[t] = dot_4(total[t], w, codes + t * 32 + c * 4);
    }
}

WALK_32(q8_0, Q8_0_TOKENS, Q8_0_BLOCKS)

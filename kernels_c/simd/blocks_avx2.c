/* blocks_avx2.c: what the AVX2 integer cores share. A panel of 16 rows is two ymm of 8. */
V16 __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
V16 void store_256(void *p, __m256i x) { _mm256_storeu_si256((__m256i *)p, x); }

/* Four bytes (four codes, or two sums) to all lanes. */
V16 __m256i broadcast_4(const void *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}

/* 8 of 16 fp16 scales. */
V16 __m256 half_scales(const uint16_t *d, int32_t half)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(d + 8 * half)));
}

/* Rows 8*half .. +7 of bytes x and y as int16 pairs (x, y), unsigned or signed. */
V16 __m256i pairs_u8(__m128i x, __m128i y, int32_t half)
{
    return _mm256_cvtepu8_epi16(half ? _mm_unpackhi_epi8(x, y) : _mm_unpacklo_epi8(x, y));
}

V16 __m256i pairs_i8(__m128i x, __m128i y, int32_t half)
{
    return _mm256_cvtepi8_epi16(half ? _mm_unpackhi_epi8(x, y) : _mm_unpacklo_epi8(x, y));
}

/* Has the compiler finish x here, in a register. GCC otherwise sinks the additions of an
 * unrolled chain to its end and keeps all products on the stack until then. */
#define KEEP(x) __asm__ volatile("" : "+x"(x))

/* Has the compiler leave in memory what was stored there. Otherwise it carries sums from block to
 * block in the registers that the next block's products need, and spills those. */
#define KEEP_STORED() __asm__ volatile("" ::: "memory")

/* acc[half] = fma(d * da, I, acc): a block of 32. */
V16 void add_block_of_32(float *acc, int32_t half, float da, __m256i products, __m256 d)
{
    __m256 both = _mm256_mul_ps(d, _mm256_set1_ps(da));
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(products), _mm256_loadu_ps(acc + 8 * half)));
}

/* Software prefetch distance ahead of a panel that is read once. */
#define PREFETCH_AHEAD 2048
V16 void prefetch(const void *p) { _mm_prefetch((const char *)p + PREFETCH_AHEAD, _MM_HINT_T0); }

/* Asks for the `bytes` at p. A tile of arithmetic that several tokens share so fetches what is unpacked
 * after it, little by little; unpacking alone reads too fast for a prefetch to hide anything. */
V16 void fetch_bytes(const void *p, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)p + at, _MM_HINT_T0);
}

/* Runs tile(tokens, t, first) over nt tokens; `tokens` and `first`, whether these are the first four,
 * are constants in each call. */
#define FOR_TILES(most, nt, tile)                                   \
    do {                                                            \
        _Static_assert((most) == 4, "tiles are of four tokens");     \
        int32_t t = 0;                                              \
        if ((nt) >= 4) {                                            \
            tile(4, 0, 1);                                          \
            t = 4;                                                  \
        }                                                           \
        for (; t + 4 <= (nt); t += 4)                               \
            tile(4, t, 0);                                          \
        if ((nt) - t >= 2) {                                        \
            tile(2, t, 0);                                          \
            t += 2;                                                 \
        }                                                           \
        if (t < (nt))                                               \
            tile(1, t, 0);                                          \
    } while (0)

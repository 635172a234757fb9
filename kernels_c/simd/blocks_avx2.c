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

/* Software prefetch distance ahead of a panel that is read once. */
#define PREFETCH_AHEAD 2048
V16 void prefetch(const void *p) { _mm_prefetch((const char *)p + PREFETCH_AHEAD, _MM_HINT_T0); }

/* Asks for part i of n of the `bytes` that follow p, so that a tile of arithmetic fetches the block
 * after its own little by little. Unpacking alone reads too fast for a prefetch to hide anything. */
V16 void prefetch_part(const void *p, int64_t bytes, int32_t i, int32_t n)
{
    const int64_t share = (bytes / 64 + n - 1) / n * 64;
    for (int64_t at = 0; at < share; at += 64)
        _mm_prefetch((const char *)p + i * share + at, _MM_HINT_T0);
}

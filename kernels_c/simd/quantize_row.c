/* quantize_row.c: activations to int8; the meaning is reference/quantize_row.c. Maxima and
 * integer sums are exact in any order. */

/* group: any length. A tail of less than 16 goes through v16_load_some. */
V16 float quantize_group(const float *x, int32_t group, int8_t *codes)
{
    int32_t whole = group / 16 * 16;
    v16 zero = v16_zero(), maxima = zero, finite = zero;
    for (int32_t i = 0; i < whole; i += 16) {
        v16 value = v16_load(x + i);
        maxima = v16_max(v16_abs(value), maxima);
        finite = v16_fma(value, zero, finite);
    }
    if (whole < group) {
        v16 value = v16_load_some(x + whole, group - whole, 0.0f);
        maxima = v16_max(v16_abs(value), maxima);
        finite = v16_fma(value, zero, finite);
    }
    float amax = v16_largest(maxima), all_finite = v16_tree_sum(finite);
    if (!(all_finite == 0.0f) || amax < AMAX_LEAST) {
        memset(codes, 0, (size_t)group);
        return all_finite == 0.0f ? 0.0f : __builtin_nanf("");
    }
    v16 factor = v16_set1(127.0f / amax);
    for (int32_t i = 0; i < whole; i += 16)
        _mm_storeu_si128((__m128i *)(codes + i), v16_to_i8(v16_mul(v16_load(x + i), factor)));
    if (whole < group) {
        int8_t tail[16];
        v16 value = v16_load_some(x + whole, group - whole, 0.0f);
        _mm_storeu_si128((__m128i *)tail, v16_to_i8(v16_mul(value, factor)));
        memcpy(codes + whole, tail, (size_t)(group - whole));
    }
    return amax / 127.0f;
}

/* Sums of codes 2i, 2i+1 of 16: int16 [k%4<2, k%4>=2] four times. */
V16 __m128i sums_of_2(const int8_t *codes)
{
    return _mm_maddubs_epi16(_mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)codes));
}

/* Four of those to four [k%4<2, k%4>=2] sums of 16. */
V16 __m128i pair_sums(__m128i a, __m128i b, __m128i c, __m128i d)
{
    __m128i ab = _mm_add_epi16(_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
    __m128i cd = _mm_add_epi16(_mm_unpacklo_epi64(c, d), _mm_unpackhi_epi64(c, d));
    __m128 x = _mm_castsi128_ps(ab), y = _mm_castsi128_ps(cd);
    return _mm_add_epi16(_mm_castps_si128(_mm_shuffle_ps(x, y, 0x88)), _mm_castps_si128(_mm_shuffle_ps(x, y, 0xdd)));
}

static void quantize_row_256(const float *x, int32_t k, int32_t t, int32_t n_tokens,
                             int8_t *codes, float *scales, int16_t *sums)
{
    for (int32_t block = 0; block < k / 256; ++block) {
        int64_t at = (int64_t)block * n_tokens + t;
        int8_t *c = codes + at * 256;
        int16_t *s = sums + at * ACTIVATION_SUMS_256;
        scales[at] = quantize_group(x + (int64_t)block * 256, 256, c);
        for (int32_t i = 0; i < 256; i += 64) {
            __m128i a = sums_of_2(c + i), b = sums_of_2(c + i + 16);
            __m128i e = sums_of_2(c + i + 32), f = sums_of_2(c + i + 48);
            __m128i pairs = _mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16(pair_sums(a, b, e, f), 5));
            __m128i of_8 = _mm_hadd_epi16(_mm_hadd_epi16(a, b), _mm_hadd_epi16(e, f));
            __m128i of_16 = _mm_hadd_epi16(of_8, of_8);
            __m128i of_32 = _mm_hadd_epi16(of_16, of_16);
            __m128i times = _mm_slli_epi32(_mm_cvtepi16_epi32(of_16), 5);
            _mm_storeu_si128((__m128i *)(s + SUMS_OF_PAIRS + i / 8), pairs);
            _mm_storeu_si128((__m128i *)(s + SUMS_OF_16 + i / 8), _mm_sub_epi32(_mm_setzero_si128(), times));
            int32_t two = _mm_cvtsi128_si32(of_32);
            memcpy(s + SUMS_OF_32 + i / 32, &two, sizeof two);
        }
    }
}

static void quantize_row_32(const float *x, int32_t k, int32_t t, int32_t n_tokens,
                            int8_t *codes, float *scales, int16_t *sums)
{
    for (int32_t block = 0; block < k / 32; ++block) {
        int64_t at = (int64_t)block * n_tokens + t;
        int8_t *c = codes + at * 32;
        scales[at] = scale_of_32(quantize_group(x + (int64_t)block * 32, 32, c));
        __m128i two = _mm_add_epi16(sums_of_2(c), sums_of_2(c + 16));
        int32_t pair = _mm_cvtsi128_si32(pair_sums(two, two, two, two));
        int16_t *s = sums + at * ACTIVATION_SUMS_32;
        memcpy(s, &pair, sizeof pair);
        int32_t times = -128 * (s[0] + s[1]);
        memcpy(s + SUMS_TIMES_128, &times, sizeof times);
    }
}

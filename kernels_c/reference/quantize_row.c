/* quantize_row.c: activations to int8, one scale a group.
 *
 * d = amax / 127, code = round(x * (127 / amax)), half to even: -127 .. 127. A group
 * whose amax is below AMAX_LEAST has scale 0 and codes 0; one that holds a NaN or an
 * infinity has scale NaN and codes 0, so that it shows in the logits. */
static float quantize_group(const float *x, int32_t group, int8_t *codes)
{
    float amax = 0.0f, finite = 0.0f;
    for (int32_t i = 0; i < group; ++i) {
        amax = abs_f32(x[i]) > amax ? abs_f32(x[i]) : amax;
        finite = fma_f32(x[i], 0.0f, finite);        /* NaN once any x is not finite */
    }
    if (!(finite == 0.0f) || amax < AMAX_LEAST) {
        for (int32_t i = 0; i < group; ++i)
            codes[i] = 0;
        return finite == 0.0f ? 0.0f : __builtin_nanf("");
    }
    float factor = 127.0f / amax;
    for (int32_t i = 0; i < group; ++i) {
        float scaled = x[i] * factor;                /* |scaled| <= 127 and a little: rounds to <= 127 */
        codes[i] = (int8_t)((scaled + EXP_ROUNDER) - EXP_ROUNDER);
    }
    return amax / 127.0f;
}

static void quantize_row_256(const float *x, int32_t k, int32_t t, int32_t n_tokens,
                             int8_t *codes, float *scales, int16_t *sums)
{
    for (int32_t block = 0; block < k / 256; ++block) {
        int64_t at = (int64_t)block * n_tokens + t;
        int8_t *c = codes + at * 256;
        int16_t *s = sums + at * ACTIVATION_SUMS_256;
        scales[at] = quantize_group(x + (int64_t)block * 256, 256, c);
        int32_t of_16[16] = {0};
        for (int32_t i = 0; i < SUMS_OF_16; ++i)
            s[i] = 0;
        for (int32_t i = 0; i < 256; ++i) {
            int32_t pair = SUMS_OF_PAIRS + i / 16 * 2 + i % 4 / 2;
            s[SUMS_OF_32 + i / 32] = (int16_t)(s[SUMS_OF_32 + i / 32] + c[i]);
            s[pair] = (int16_t)(s[pair] - 32 * c[i]);
            of_16[i / 16] -= 32 * c[i];
        }
        memcpy(s + SUMS_OF_16, of_16, sizeof of_16);
    }
}

static void quantize_row_32(const float *x, int32_t k, int32_t t, int32_t n_tokens,
                            int8_t *codes, float *scales, int16_t *sums)
{
    for (int32_t block = 0; block < k / 32; ++block) {
        int64_t at = (int64_t)block * n_tokens + t;
        int8_t *c = codes + at * 32;
        int16_t *s = sums + at * ACTIVATION_SUMS_32;
        scales[at] = scale_of_32(quantize_group(x + (int64_t)block * 32, 32, c));
        s[0] = s[1] = 0;
        for (int32_t i = 0; i < 32; ++i)
            s[i % 4 / 2] = (int16_t)(s[i % 4 / 2] + c[i]);
        int32_t times = -128 * (s[0] + s[1]);
        memcpy(s + SUMS_TIMES_128, &times, sizeof times);
    }
}

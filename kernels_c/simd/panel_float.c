/* panel_float.c: panels of float weights, [k][16], over 16 lanes. The meaning is
 * reference/panel_f32.c.j2: per block of 256 a chain of fma over k, blocks added ascending. */
#define FLOAT_BLOCK 256

#define FLOAT_PANEL(format, element, load)                                                          \
    V16 void format##_tile(const element *w, int32_t count, int32_t k, int32_t tokens,              \
                           const float *x, float *acc)                                              \
    {                                                                                               \
        v16 sum[FLOAT_TOKENS];                                                                      \
        for (int32_t t = 0; t < tokens; ++t)                                                        \
            sum[t] = v16_zero();                                                                    \
        for (int32_t i = 0; i < count; ++i) {                                                       \
            v16 row = load(w + (int64_t)i * 16);                                                    \
            for (int32_t t = 0; t < tokens; ++t)                                                    \
                sum[t] = v16_fma(row, v16_set1(x[(int64_t)t * k + i]), sum[t]);                     \
        }                                                                                           \
        for (int32_t t = 0; t < tokens; ++t)                                                        \
            v16_store(acc + t * 16, v16_add(v16_load(acc + t * 16), sum[t]));                       \
    }                                                                                               \
    V16 void format##_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0,      \
                            int32_t nt, float *acc)                                                 \
    {                                                                                               \
        memset(acc, 0, sizeof(float) * 16 * (size_t)nt);                                            \
        for (int32_t first = 0; first < k; first += FLOAT_BLOCK) {                                  \
            int32_t count = k - first < FLOAT_BLOCK ? k - first : FLOAT_BLOCK;                      \
            const element *w = (const element *)panel + (int64_t)first * 16;                        \
            const float *x = a->x + (int64_t)t0 * k + first;                                        \
            int32_t t = 0;                                                                          \
            for (; t + FLOAT_TOKENS <= nt; t += FLOAT_TOKENS)                                       \
                format##_tile(w, count, k, FLOAT_TOKENS, x + (int64_t)t * k, acc + t * 16);         \
            for (; t + 2 <= nt; t += 2)                                                             \
                format##_tile(w, count, k, 2, x + (int64_t)t * k, acc + t * 16);                    \
            for (; t < nt; ++t)                                                                     \
                format##_tile(w, count, k, 1, x + (int64_t)t * k, acc + t * 16);                    \
        }                                                                                           \
    }

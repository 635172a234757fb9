/* rows.c: operations on a row of floats; the meaning is reference/rows.c. Lanes that a
 * tail lacks are filled with what leaves every sum and maximum as it is. */
static void rms_norm(const float *x, const float *w, int32_t n, float eps, float *out)
{
    int32_t whole = n / 16 * 16;
    v16 lanes = v16_zero();
    for (int32_t i = 0; i < whole; i += 16)
        lanes = v16_fma(v16_load(x + i), v16_load(x + i), lanes);
    if (whole < n) {
        v16 tail = v16_load_some(x + whole, n - whole, 0.0f);
        lanes = v16_fma(tail, tail, lanes);
    }
    float mean = v16_tree_sum(lanes) / (float)n;
    float factor = 1.0f / sqrt_f32(mean + eps);
    if (w == NULL) {
        for (int32_t i = 0; i < n; ++i)
            out[i] = x[i] * factor;
        return;
    }
    for (int32_t i = 0; i < whole; i += 16)
        v16_store(out + i, v16_mul(v16_mul(v16_load(x + i), v16_set1(factor)), v16_load(w + i)));
    for (int32_t i = whole; i < n; ++i)
        out[i] = (x[i] * factor) * w[i];
}

static void layer_norm(const float *x, const float *w, const float *b, int32_t n, float eps, float *out)
{
    int32_t whole = n / 16 * 16;
    v16 lanes = v16_zero();
    for (int32_t i = 0; i < whole; i += 16)
        lanes = v16_add(lanes, v16_load(x + i));
    if (whole < n)
        lanes = v16_add(lanes, v16_load_some(x + whole, n - whole, 0.0f));
    float mean = v16_tree_sum(lanes) / (float)n;
    v16 squares = v16_zero();
    for (int32_t i = 0; i < whole; i += 16) {
        v16 apart = v16_sub(v16_load(x + i), v16_set1(mean));
        squares = v16_fma(apart, apart, squares);
    }
    if (whole < n) {
        v16 apart = v16_sub(v16_load_some(x + whole, n - whole, mean), v16_set1(mean));
        squares = v16_fma(apart, apart, squares);
    }
    float variance = v16_tree_sum(squares) / (float)n;
    float factor = 1.0f / sqrt_f32(variance + eps);
    for (int32_t i = 0; i < n; ++i) {
        float normal = (x[i] - mean) * factor;
        out[i] = b ? fma_f32(normal, w[i], b[i]) : normal * w[i];
    }
}

static void softmax_row(float *x, int32_t n)
{
    int32_t whole = n / 16 * 16;
    v16 lowest = v16_set1(-__builtin_inff());
    v16 maxima = lowest;
    for (int32_t i = 0; i < whole; i += 16)
        maxima = v16_max(v16_load(x + i), maxima);
    if (whole < n)
        maxima = v16_max(v16_load_some(x + whole, n - whole, -__builtin_inff()), maxima);
    v16 max = v16_set1(v16_largest(maxima));
    v16 lanes = v16_zero();
    for (int32_t i = 0; i < whole; i += 16) {
        v16 e = v16_exp(v16_sub(v16_load(x + i), max));
        lanes = v16_add(lanes, e);
        v16_store(x + i, e);
    }
    if (whole < n) {
        v16 e = v16_exp(v16_sub(v16_load_some(x + whole, n - whole, -__builtin_inff()), max));
        lanes = v16_add(lanes, v16_keep(e, 0, n - whole, v16_zero()));
        v16_store_some(x + whole, n - whole, e);
    }
    float sum = v16_tree_sum(lanes);
    for (int32_t i = 0; i < n; ++i)
        x[i] = x[i] / sum;
}

static void rope_row(float *x, int32_t n_rot, const float *cos_sin, int32_t pairing)
{
    int32_t pairs = n_rot / 2;
    if (pairing == 0) {
        for (int32_t i = 0; i < pairs; ++i) {
            float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = fma_f32(a, c, -(b * s));
            x[2 * i + 1] = fma_f32(b, c, a * s);
        }
        return;
    }
    for (int32_t i = 0; i < pairs; ++i) {
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        float a = x[i], b = x[i + pairs];
        x[i] = fma_f32(a, c, -(b * s));
        x[i + pairs] = fma_f32(b, c, a * s);
    }
}

#define IN_PLACE(name, function)                                                                \
    static void name(float *x, int32_t n)                                                       \
    {                                                                                           \
        int32_t i = 0;                                                                          \
        for (; i + 16 <= n; i += 16)                                                            \
            v16_store(x + i, function(v16_load(x + i)));                                        \
        if (i < n)                                                                              \
            v16_store_some(x + i, n - i, function(v16_load_some(x + i, n - i, 0.0f)));          \
    }

#define GATED(name, function)                                                                   \
    static void name(const float *gate, const float *up, int32_t n, float *out)                 \
    {                                                                                           \
        int32_t i = 0;                                                                          \
        for (; i + 16 <= n; i += 16)                                                            \
            v16_store(out + i, v16_mul(function(v16_load(gate + i)), v16_load(up + i)));        \
        if (i < n)                                                                              \
            v16_store_some(out + i, n - i, v16_mul(function(v16_load_some(gate + i, n - i, 0.0f)), \
                                                   v16_load_some(up + i, n - i, 0.0f)));        \
    }

IN_PLACE(act_silu, v16_silu)
IN_PLACE(act_gelu, v16_gelu)
IN_PLACE(act_gelu_tanh, v16_gelu_tanh)
IN_PLACE(act_relu2, v16_relu2)
IN_PLACE(act_tanh, v16_tanh)
IN_PLACE(act_sigmoid, v16_sigmoid)
GATED(glu_silu, v16_silu)
GATED(glu_gelu, v16_gelu)
GATED(glu_gelu_tanh, v16_gelu_tanh)
GATED(glu_relu2, v16_relu2)

static void softcap(float *x, int32_t n, float cap)
{
    v16 limit = v16_set1(cap);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v16_store(x + i, v16_mul(limit, v16_tanh(v16_div(v16_load(x + i), limit))));
    if (i < n)
        v16_store_some(x + i, n - i, v16_mul(limit, v16_tanh(v16_div(v16_load_some(x + i, n - i, 0.0f), limit))));
}

static void add_rows(const float *a, const float *b, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; ++i)
        out[i] = a[i] + b[i];
}

static void scale_row(float *x, int32_t n, float s)
{
    for (int32_t i = 0; i < n; ++i)
        x[i] = x[i] * s;
}

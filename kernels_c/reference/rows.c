/* rows.c: operations on a row of floats. Reductions run in 16 virtual lanes:
 * element i belongs to lane i % 16, lanes go up, then tree_sum. */
static void rms_norm(const float *x, const float *w, int32_t n, float eps, float *out)
{
    float lanes[16] = {0};
    for (int32_t i = 0; i < n; ++i)
        lanes[i % 16] = fma_f32(x[i], x[i], lanes[i % 16]);
    float mean = tree_sum(lanes) / (float)n;
    float factor = 1.0f / sqrt_f32(mean + eps);
    for (int32_t i = 0; i < n; ++i)
        out[i] = w ? (x[i] * factor) * w[i] : x[i] * factor;
}

static void layer_norm(const float *x, const float *w, const float *b, int32_t n, float eps, float *out)
{
    float lanes[16] = {0};
    for (int32_t i = 0; i < n; ++i)
        lanes[i % 16] = lanes[i % 16] + x[i];
    float mean = tree_sum(lanes) / (float)n;
    float squares[16] = {0};
    for (int32_t i = 0; i < n; ++i)
        squares[i % 16] = fma_f32(x[i] - mean, x[i] - mean, squares[i % 16]);
    float variance = tree_sum(squares) / (float)n;
    float factor = 1.0f / sqrt_f32(variance + eps);
    for (int32_t i = 0; i < n; ++i) {
        float normal = (x[i] - mean) * factor;
        out[i] = b ? fma_f32(normal, w[i], b[i]) : normal * w[i];
    }
}

static void softmax_row(float *x, int32_t n)
{
    float max = -__builtin_inff();
    for (int32_t i = 0; i < n; ++i)
        max = x[i] > max ? x[i] : max;
    float lanes[16] = {0};
    for (int32_t i = 0; i < n; ++i) {
        x[i] = exp_f32(x[i] - max);
        lanes[i % 16] = lanes[i % 16] + x[i];
    }
    float sum = tree_sum(lanes);
    for (int32_t i = 0; i < n; ++i)
        x[i] = x[i] / sum;
}

static void rope_row(float *x, int32_t n_rot, const float *cos_sin, int32_t pairing)
{
    int32_t pairs = n_rot / 2;
    for (int32_t i = 0; i < pairs; ++i) {
        float *first = pairing ? x + i : x + 2 * i;
        float *second = pairing ? x + i + pairs : x + 2 * i + 1;
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        float a = *first, b = *second;
        *first = fma_f32(a, c, -(b * s));
        *second = fma_f32(b, c, a * s);
    }
}

static void act_silu(float *x, int32_t n) { for (int32_t i = 0; i < n; ++i) x[i] = silu_f32(x[i]); }
static void act_gelu(float *x, int32_t n) { for (int32_t i = 0; i < n; ++i) x[i] = gelu_f32(x[i]); }
static void act_gelu_tanh(float *x, int32_t n) { for (int32_t i = 0; i < n; ++i) x[i] = gelu_tanh_f32(x[i]); }
static void act_relu2(float *x, int32_t n) { for (int32_t i = 0; i < n; ++i) x[i] = relu2_f32(x[i]); }
static void act_tanh(float *x, int32_t n) { for (int32_t i = 0; i < n; ++i) x[i] = tanh_f32(x[i]); }
static void act_sigmoid(float *x, int32_t n) { for (int32_t i = 0; i < n; ++i) x[i] = sigmoid_f32(x[i]); }

static void glu_silu(const float *gate, const float *up, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; ++i)
        out[i] = silu_f32(gate[i]) * up[i];
}

static void glu_gelu(const float *gate, const float *up, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; ++i)
        out[i] = gelu_f32(gate[i]) * up[i];
}

static void glu_gelu_tanh(const float *gate, const float *up, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; ++i)
        out[i] = gelu_tanh_f32(gate[i]) * up[i];
}

static void glu_relu2(const float *gate, const float *up, int32_t n, float *out)
{
    for (int32_t i = 0; i < n; ++i)
        out[i] = relu2_f32(gate[i]) * up[i];
}

static void softcap(float *x, int32_t n, float cap)
{
    for (int32_t i = 0; i < n; ++i)
        x[i] = cap * tanh_f32(x[i] / cap);
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

/* math.c: the elementary functions, scalar. The sequence of operations is the
 * definition; see include/numerics.h for the formulas. */
static inline float fma_f32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float sqrt_f32(float x) { return __builtin_sqrtf(x); }
static inline float abs_f32(float x) { return bits_to_float(float_to_bits(x) & 0x7fffffffu); }

static inline float exp_f32(float x)
{
    if (x < EXP_LOWEST)
        return 0.0f;
    if (x > EXP_HIGHEST)
        return __builtin_inff();
    if (!(x == x))
        return x;
    float shifted = fma_f32(x, EXP_LOG2E, EXP_ROUNDER);
    int32_t n = (int32_t)(float_to_bits(shifted) - 0x4b400000u);
    float whole = shifted - EXP_ROUNDER;
    float r = fma_f32(whole, -EXP_LN2_HIGH, x);
    r = fma_f32(whole, -EXP_LN2_LOW, r);
    float p = fma_f32(EXP_P4, r, EXP_P3);
    p = fma_f32(p, r, EXP_P2);
    p = fma_f32(p, r, EXP_P1);
    p = fma_f32(p, r, EXP_P0);
    p = fma_f32(p, r * r, r);
    p = p + 1.0f;
    int32_t half = n >> 1;                   /* floor */
    float first = bits_to_float((uint32_t)(half + 127) << 23);
    float second = bits_to_float((uint32_t)(n - half + 127) << 23);
    return p * first * second;
}

static inline float tanh_f32(float x)
{
    float magnitude = abs_f32(x);
    float square = x * x;
    float p = fma_f32(TANH_P4, square, TANH_P3);
    p = fma_f32(p, square, TANH_P2);
    p = fma_f32(p, square, TANH_P1);
    p = fma_f32(p, square, TANH_P0);
    float small = fma_f32(p, square * magnitude, magnitude);
    float e = exp_f32(-2.0f * magnitude);
    float large = (1.0f - e) / (1.0f + e);
    float result = magnitude < TANH_SMALL ? small : large;
    return bits_to_float(float_to_bits(result) | (float_to_bits(x) & 0x80000000u));
}

static inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }
static inline float silu_f32(float x) { return x / (1.0f + exp_f32(-x)); }

/* x Phi(x); Phi from erfc where erf would cancel. */
static inline float gelu_f32(float x)
{
    float u = abs_f32(x) * SQRT_HALF;
    float square = u * u;
    float p = fma_f32(ERF_P6, square, ERF_P5);
    p = fma_f32(p, square, ERF_P4);
    p = fma_f32(p, square, ERF_P3);
    p = fma_f32(p, square, ERF_P2);
    p = fma_f32(p, square, ERF_P1);
    p = fma_f32(p, square, ERF_P0);
    float erf_half = (p * u) * 0.5f;
    float t = 1.0f / fma_f32(ERFC_T, u, 1.0f);
    float q = fma_f32(ERFC_Q8, t, ERFC_Q7);
    q = fma_f32(q, t, ERFC_Q6);
    q = fma_f32(q, t, ERFC_Q5);
    q = fma_f32(q, t, ERFC_Q4);
    q = fma_f32(q, t, ERFC_Q3);
    q = fma_f32(q, t, ERFC_Q2);
    q = fma_f32(q, t, ERFC_Q1);
    q = fma_f32(q, t, ERFC_Q0);
    float erfc_half = (exp_f32(-square) * (q * t)) * 0.5f;
    float below = u < 1.0f ? 0.5f - erf_half : erfc_half;       /* Phi(-|x|) */
    float above = u < 1.0f ? 0.5f + erf_half : 1.0f - erfc_half;
    return x * (x < 0.0f ? below : above);
}

/* x / 2 (1 + tanh y) = x / (1 + exp(-2y)). */
static inline float gelu_tanh_f32(float x)
{
    float y = (x * GELU_TANH_A) * fma_f32(x * x, GELU_TANH_B, 1.0f);
    return x / (1.0f + exp_f32(-y));
}

static inline float relu2_f32(float x)
{
    float positive = x < 0.0f ? 0.0f : x;
    return positive * positive;
}

/* The sum of 16 virtual lanes: lane j += lane j+8, then +4, +2, +1. */
static inline float tree_sum(float lanes[16])
{
    for (int32_t width = 8; width >= 1; width /= 2)
        for (int32_t j = 0; j < width; ++j)
            lanes[j] = lanes[j] + lanes[j + width];
    return lanes[0];
}

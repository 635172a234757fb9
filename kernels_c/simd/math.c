/* math.c: the elementary functions on 16 lanes, operation for operation those of reference/math.c. */
V16 v16 v16_exp(v16 x)
{
    v16 rounder = v16_set1(EXP_ROUNDER);
    v16 shifted = v16_fma(x, v16_set1(EXP_LOG2E), rounder);
    v16 whole = v16_sub(shifted, rounder);
    v16 r = v16_fma(whole, v16_set1(-EXP_LN2_HIGH), x);
    r = v16_fma(whole, v16_set1(-EXP_LN2_LOW), r);
    v16 p = v16_fma(v16_set1(EXP_P4), r, v16_set1(EXP_P3));
    p = v16_fma(p, r, v16_set1(EXP_P2));
    p = v16_fma(p, r, v16_set1(EXP_P1));
    p = v16_fma(p, r, v16_set1(EXP_P0));
    p = v16_fma(p, v16_mul(r, r), r);
    p = v16_times_power(v16_add(p, v16_set1(1.0f)), shifted);
    p = v16_if_less(x, v16_set1(EXP_LOWEST), v16_zero(), p);
    return v16_if_less(v16_set1(EXP_HIGHEST), x, v16_set1(__builtin_inff()), p);
}

V16 v16 v16_negative(v16 x) { return v16_sub(v16_set1(-0.0f), x); }

V16 v16 v16_tanh(v16 x)
{
    v16 one = v16_set1(1.0f);
    v16 magnitude = v16_abs(x);
    v16 square = v16_mul(x, x);
    v16 p = v16_fma(v16_set1(TANH_P4), square, v16_set1(TANH_P3));
    p = v16_fma(p, square, v16_set1(TANH_P2));
    p = v16_fma(p, square, v16_set1(TANH_P1));
    p = v16_fma(p, square, v16_set1(TANH_P0));
    v16 small = v16_fma(p, v16_mul(square, magnitude), magnitude);
    v16 e = v16_exp(v16_mul(v16_set1(-2.0f), magnitude));
    v16 large = v16_div(v16_sub(one, e), v16_add(one, e));
    v16 result = v16_if_less(magnitude, v16_set1(TANH_SMALL), small, large);
    return v16_or(result, v16_and(x, v16_set1(-0.0f)));
}

V16 v16 v16_sigmoid(v16 x)
{
    v16 one = v16_set1(1.0f);
    return v16_div(one, v16_add(one, v16_exp(v16_negative(x))));
}

V16 v16 v16_silu(v16 x) { return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_negative(x)))); }

V16 v16 v16_gelu(v16 x)
{
    v16 one = v16_set1(1.0f), half = v16_set1(0.5f);
    v16 u = v16_mul(v16_abs(x), v16_set1(SQRT_HALF));
    v16 square = v16_mul(u, u);
    v16 p = v16_fma(v16_set1(ERF_P6), square, v16_set1(ERF_P5));
    p = v16_fma(p, square, v16_set1(ERF_P4));
    p = v16_fma(p, square, v16_set1(ERF_P3));
    p = v16_fma(p, square, v16_set1(ERF_P2));
    p = v16_fma(p, square, v16_set1(ERF_P1));
    p = v16_fma(p, square, v16_set1(ERF_P0));
    v16 erf_half = v16_mul(v16_mul(p, u), half);
    v16 t = v16_div(one, v16_fma(v16_set1(ERFC_T), u, one));
    v16 q = v16_fma(v16_set1(ERFC_Q8), t, v16_set1(ERFC_Q7));
    q = v16_fma(q, t, v16_set1(ERFC_Q6));
    q = v16_fma(q, t, v16_set1(ERFC_Q5));
    q = v16_fma(q, t, v16_set1(ERFC_Q4));
    q = v16_fma(q, t, v16_set1(ERFC_Q3));
    q = v16_fma(q, t, v16_set1(ERFC_Q2));
    q = v16_fma(q, t, v16_set1(ERFC_Q1));
    q = v16_fma(q, t, v16_set1(ERFC_Q0));
    v16 erfc_half = v16_mul(v16_mul(v16_exp(v16_negative(square)), v16_mul(q, t)), half);
    v16 below = v16_if_less(u, one, v16_sub(half, erf_half), erfc_half);
    v16 above = v16_if_less(u, one, v16_add(half, erf_half), v16_sub(one, erfc_half));
    return v16_mul(x, v16_if_less(x, v16_zero(), below, above));
}

V16 v16 v16_gelu_tanh(v16 x)
{
    v16 one = v16_set1(1.0f);
    v16 y = v16_mul(v16_mul(x, v16_set1(GELU_TANH_A)), v16_fma(v16_mul(x, x), v16_set1(GELU_TANH_B), one));
    return v16_div(x, v16_add(one, v16_exp(v16_negative(y))));
}

V16 v16 v16_relu2(v16 x)
{
    v16 positive = v16_if_less(x, v16_zero(), v16_zero(), x);
    return v16_mul(positive, positive);
}

/* The first n (0 < n < 16) floats of p, `fill` in the other lanes. */
V16 v16 v16_load_some(const float *p, int32_t n, float fill)
{
    float lanes[16];
    for (int32_t i = 0; i < 16; ++i)
        lanes[i] = i < n ? p[i] : fill;
    return v16_load(lanes);
}

V16 void v16_store_some(float *p, int32_t n, v16 x)
{
    float lanes[16];
    v16_store(lanes, x);
    for (int32_t i = 0; i < n; ++i)
        p[i] = lanes[i];
}

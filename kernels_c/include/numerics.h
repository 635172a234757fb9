/* numerics.h: constants of the elementary functions. Every backend evaluates the
 * same polynomials with the same sequence of fma, so all give the same bits.
 * Coefficients: minimax fits (weighted least squares, iterated) rounded to float. */
#ifndef NUMERICS_H
#define NUMERICS_H

/* exp(x): n = round(x log2 e); r = x - n ln 2 in two steps; 1 + r + r^2 P(r); times 2^n in two
 * exact factors. Below EXP_LOWEST the result is 0 (it would be a denormal), above EXP_HIGHEST infinite. */
#define EXP_LOWEST (-87.3365402f)
#define EXP_HIGHEST 88.7228317f
#define EXP_LOG2E 0x1.715476p+0f
#define EXP_ROUNDER 0x1.8p+23f       /* x + this - this rounds to an integer, half to even */
#define EXP_LN2_HIGH 0x1.62e4p-1f
#define EXP_LN2_LOW 0x1.7f7d1cp-20f
#define EXP_P0 0.5f
#define EXP_P1 0x1.55548ep-3f
#define EXP_P2 0x1.55545ep-5f
#define EXP_P3 0x1.123bdep-7f
#define EXP_P4 0x1.6db4e8p-10f

/* tanh(x): x + x^3 P(x^2) below TANH_SMALL, else (1 - e) / (1 + e) with e = exp(-2|x|). */
#define TANH_SMALL 0.625f
#define TANH_P0 -0x1.555532p-2f
#define TANH_P1 0x1.110710p-3f
#define TANH_P2 -0x1.b837f2p-5f
#define TANH_P3 0x1.520236p-6f
#define TANH_P4 -0x1.752164p-8f

/* erf(u) = u P(u^2) below 1; erfc(u) = exp(-u^2) t Q(t), t = 1 / (1 + 0.4 u), from 1 on. */
#define ERF_P0 0x1.20dd74p+0f
#define ERF_P1 -0x1.81273ep-2f
#define ERF_P2 0x1.ce2d20p-4f
#define ERF_P3 -0x1.b7fbb4p-6f
#define ERF_P4 0x1.5419f6p-8f
#define ERF_P5 -0x1.a485ecp-11f
#define ERF_P6 0x1.4ae4d0p-14f
#define ERFC_T 0.4f
#define ERFC_Q0 0x1.ce32ccp-3f
#define ERFC_Q1 0x1.cdcf22p-3f
#define ERFC_Q2 0x1.ad75dcp-3f
#define ERFC_Q3 0x1.43e4e8p-3f
#define ERFC_Q4 0x1.6735d6p-3f
#define ERFC_Q5 -0x1.27a4f6p-4f
#define ERFC_Q6 0x1.f7aa46p-3f
#define ERFC_Q7 -0x1.d90274p-3f
#define ERFC_Q8 0x1.013facp-4f

#define SQRT_HALF 0x1.6a09e6p-1f
#define GELU_TANH_A 0x1.988454p+0f   /* 2 sqrt(2/pi) */
#define GELU_TANH_B 0x1.6e4e26p-5f   /* 0.044715 */

/* Activation groups with a smaller maximum have scale 0: 127 / amax would overflow. */
#define AMAX_LEAST 0x1p-119f
#endif

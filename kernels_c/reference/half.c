/* half.c: fp16 and bf16 as bits, and back. Rounding is to nearest, ties to even. */
#include <string.h>

static inline float bits_to_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t float_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u;
    uint32_t mantissa = half & 0x3ffu;
    if (exponent == 31)      /* infinite, or NaN made quiet */
        return bits_to_float(sign | 0x7f800000u | (mantissa ? 0x400000u | mantissa << 13 : 0));
    if (exponent != 0)
        return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
    float magnitude = (float)mantissa * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

static inline uint16_t float_to_half(float x)
{
    uint32_t bits = float_to_bits(x);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x477ff000u)            /* rounds to 2^16 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {           /* below 2^-14: a denormal, in units of 2^-24 */
        float rounder = 0.5f;                /* its last place is 2^-24 */
        uint32_t sum = float_to_bits(bits_to_float(magnitude) + rounder);
        return (uint16_t)(sign | (sum - float_to_bits(rounder)));
    }
    uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | (magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}

static inline float bfloat_to_float(uint16_t bfloat) { return bits_to_float((uint32_t)bfloat << 16); }

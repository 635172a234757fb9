/* quantize_float.c: the float formats f32, f16 and bf16, both ways. */
#include "quantize.h"
#include "lanes.h"

/* QUANTIZE_OK if all n weights are finite and of at most `limit`. */
static int32_t check(const float *x, int64_t n, float limit)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return check_bits(largest, limit);
}

int32_t quantize_f32(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    (void)importance;
    int32_t wrong = check(x, rows * k, 0x1.fffffep127f);
    if (!wrong)
        memcpy(out, x, (size_t)(rows * k) * 4);
    return wrong;
}

/* In the range of subnormal halves, adding 0.5 leaves exactly the half's bits (rounded) in the sum's
 * lowest ones; above it, the exponent is moved by 112 and 13 bits are rounded away. */
static inline uint16_t narrow(float v)
{
    uint32_t bits, small;
    memcpy(&bits, &v, 4);
    uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    float size, sum;
    memcpy(&size, &bits, 4);
    sum = size + 0.5f;
    memcpy(&small, &sum, 4);
    uint32_t normal = (bits + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13;
    return (uint16_t)(sign | (size < 0x1p-14f ? small - 0x3f000000 : normal));
}

int32_t quantize_f16(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    (void)importance;
    int32_t wrong = check(x, rows * k, 0x1.ffdffep15f);
    if (wrong)
        return wrong;
    for (int64_t i = 0; i < rows * k; i++) {
        uint16_t half = narrow(x[i]);
        memcpy(out + 2 * i, &half, 2);
    }
    return QUANTIZE_OK;
}

int32_t quantize_bf16(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    (void)importance;
    int32_t wrong = check(x, rows * k, 0x1.fefffep127f);
    if (wrong)
        return wrong;
    for (int64_t i = 0; i < rows * k; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        uint16_t upper = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        memcpy(out + 2 * i, &upper, 2);
    }
    return QUANTIZE_OK;
}

void dequantize_f16(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t i = 0; i < rows * k; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, 2);
        uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
        uint32_t special = bits >= 0x7c00u << 13 ? 0x7f800000 : 0;
        float v;
        memcpy(&v, &bits, 4);
        v *= 0x1p112f;
        memcpy(&bits, &v, 4);
        bits |= sign | special;
        memcpy(out + i, &bits, 4);
    }
}

void dequantize_bf16(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t i = 0; i < rows * k; i++) {
        uint16_t upper;
        memcpy(&upper, in + 2 * i, 2);
        uint32_t bits = (uint32_t)upper << 16;
        memcpy(out + i, &bits, 4);
    }
}

void dequantize_f32(const uint8_t *in, int64_t rows, int64_t k, float *out) { memcpy(out, in, (size_t)(rows * k) * 4); }

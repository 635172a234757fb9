/* quantize_q5_1.c: 32 weights as fp16 d, fp16 m, 32 fifth bits, 16 bytes of nibbles; w = d * q + m. The
 * search is affine_32.h's. */
#include "quantize.h"
#include "affine_32.h"

#define BLOCK 32
#define BYTES 24
#define MOST 31.0f

static void put(const uint16_t *bits, const uint8_t *codes, uint8_t *out)
{
    uint32_t fifth = 0;
    memcpy(out, bits, 4);
    for (int i = 0; i < 32; i++)
        fifth |= (uint32_t)(codes[i] >> 4) << i;
    memcpy(out + 4, &fifth, 4);
    for (int i = 0; i < 16; i++)
        out[8 + i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

int32_t quantize_q5_1(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    return quantize_affine(x, importance, rows, k, MOST, BYTES, put, out);
}

void dequantize_q5_1(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES, out += BLOCK) {
        uint16_t bits[2];
        uint32_t fifth;
        memcpy(bits, in, 4);
        memcpy(&fifth, in + 4, 4);
        float d = half_value(bits[0]), m = half_value(bits[1]);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((in[8 + i] & 15) | (fifth >> i & 1) << 4) + m;
            out[i + 16] = d * (float)(in[8 + i] >> 4 | (fifth >> (i + 16) & 1) << 4) + m;
        }
    }
}

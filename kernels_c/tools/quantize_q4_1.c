/* quantize_q4_1.c: 32 weights as fp16 d, fp16 m, 16 bytes of nibbles; w = d * q + m. The search is affine_32.h's. */
#include "quantize.h"
#include "affine_32.h"

#define BLOCK 32
#define BYTES 20
#define MOST 15.0f

static void put(const uint16_t *bits, const uint8_t *codes, uint8_t *out)
{
    memcpy(out, bits, 4);
    for (int i = 0; i < 16; i++)
        out[4 + i] = (uint8_t)(codes[i] | codes[i + 16] << 4);
}

int32_t quantize_q4_1(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out)
{
    return quantize_affine(x, importance, rows, k, MOST, BYTES, put, out);
}

void dequantize_q4_1(const uint8_t *in, int64_t rows, int64_t k, float *out)
{
    for (int64_t b = 0; b < rows * k / BLOCK; b++, in += BYTES, out += BLOCK) {
        uint16_t bits[2];
        memcpy(bits, in, 4);
        float d = half_value(bits[0]), m = half_value(bits[1]);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(in[4 + i] & 15) + m;
            out[i + 16] = d * (float)(in[4 + i] >> 4) + m;
        }
    }
}

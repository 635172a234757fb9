/* Every encoder and decoder on random bits, ordinary weights and extremes, with guard bytes after each
 * output; built with AddressSanitizer and UndefinedBehaviorSanitizer by test_sanitizers.py. Prints what
 * was encoded and refused; exits 1 on an overrun. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "quantize.h"

#define GUARD 8

typedef struct {
    const char *name;
    int32_t (*encode)(const float *, const float *, int64_t, int64_t, uint8_t *);
    void (*decode)(const uint8_t *, int64_t, int64_t, float *);
    int block, bytes;
} format;

/* FORMAT(name, block, bytes) for each that is encoded. */
#define FORMAT(name, block, bytes) QUANTIZER(name)
#include "formats.inc"
#undef FORMAT
#define FORMAT(name, block, bytes) {#name, quantize_##name, dequantize_##name, block, bytes},
static const format FORMATS[] = {
#include "formats.inc"
};

static float weight(int kind)
{
    double unit = rand() / (double)RAND_MAX * 2 - 1;
    uint32_t bits = ((uint32_t)rand() << 17) ^ (uint32_t)rand();
    float any;
    memcpy(&any, &bits, 4);
    switch (kind) {
    case 0: return any;
    case 1: return (float)(unit * pow(10, rand() % 12 - 8));
    case 2: return rand() % 8 ? 0.0f : (float)unit;
    case 3: return (float)(unit * 4e6);
    default: return (float)unit;
    }
}

int main(void)
{
    long encoded = 0, refused = 0;
    srand(1);
    for (int round = 0; round < 300; round++)
        for (size_t f = 0; f < sizeof FORMATS / sizeof *FORMATS; f++) {
            const format *fmt = &FORMATS[f];
            int64_t rows = 1 + rand() % 3, k = fmt->block * (1 + rand() % 3);
            size_t n = (size_t)(rows * k), size = n / (size_t)fmt->block * (size_t)fmt->bytes;
            float *x = malloc(n * 4), *importance = malloc((size_t)k * 4), *back = malloc(n * 4);
            uint8_t *out = malloc(size + GUARD);
            int kind = rand() % 5;
            for (size_t i = 0; i < n; i++)
                x[i] = weight(kind);
            for (int64_t i = 0; i < k; i++)
                importance[i] = expf((float)(rand() % 12 - 6));
            memset(out + size, 0xab, GUARD);
            if (fmt->encode(x, rand() % 2 ? importance : NULL, rows, k, out) == QUANTIZE_OK)
                encoded++;
            else
                refused++;
            for (int i = 0; i < GUARD; i++)
                if (out[size + (size_t)i] != 0xab) {
                    printf("%s wrote past its end\n", fmt->name);
                    return 1;
                }
            for (size_t i = 0; i < size; i++)
                out[i] = (uint8_t)rand();
            fmt->decode(out, rows, k, back);
            free(x);
            free(importance);
            free(back);
            free(out);
        }
    static uint8_t every[2 * 65536];
    static float wide[65536];
    for (int i = 0; i < 65536; i++) {
        every[2 * i] = (uint8_t)i;
        every[2 * i + 1] = (uint8_t)(i >> 8);
    }
    dequantize_f16(every, 1, 65536, wide);
    dequantize_bf16(every, 1, 65536, wide);
    printf("encoded %ld refused %ld\n", encoded, refused);
    return 0;
}

/* quantize.h: encoders and converters, built once for the compiler's use.
 *
 * The text between the markers is what the compiler hands to cffi's cdef().
 *
 * Every quantize_* writes standard GGUF blocks: rows of k weights, row-major and
 * contiguous, become rows of blocks, contiguous. The arithmetic is float32 in the
 * order written here, never contracted or reassociated, and the same whatever the
 * width of the machine's vectors; compiler/quantize/formats/ holds a NumPy twin of
 * each that gives the same bytes.
 */
#ifndef ENGINE_QUANTIZE_H
#define ENGINE_QUANTIZE_H
#include <stdint.h>
#pragma GCC visibility push(default)

/* cdef-begin */
#define QUANTIZE_OK 0
#define QUANTIZE_E_SHAPE 1     /* k is not a multiple of the format's block */
#define QUANTIZE_E_NONFINITE 2 /* a weight is NaN or infinite */
#define QUANTIZE_E_RANGE 3     /* a weight is beyond what the format's scales can express */

/* x: float[rows][k]. importance: float[k], the weight of each column's squared error,
 * positive and finite, or NULL for all equal. out: uint8[rows][k / block * block bytes]. */
int32_t quantize_q8_0(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);
int32_t quantize_q5_0(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);
int32_t quantize_q6_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);
int32_t quantize_q4_k(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);

/* The float formats: rounded to nearest, ties to even; importance is not looked at. */
int32_t quantize_f32(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);
int32_t quantize_f16(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);
int32_t quantize_bf16(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);

/* n little-endian values as stored in a file -> float[n], exact. */
void widen_f16(const uint8_t *in, int64_t n, float *out);
void widen_bf16(const uint8_t *in, int64_t n, float *out);

/* Blocks back to float[rows][k], in the order of operations of gguf's decoders. */
void dequantize_q8_0(const uint8_t *in, int64_t rows, int64_t k, float *out);
void dequantize_q5_0(const uint8_t *in, int64_t rows, int64_t k, float *out);
void dequantize_q6_k(const uint8_t *in, int64_t rows, int64_t k, float *out);
void dequantize_q4_k(const uint8_t *in, int64_t rows, int64_t k, float *out);
/* cdef-end */

#pragma GCC visibility pop
#endif

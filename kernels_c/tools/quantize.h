/* quantize.h: encoders and converters, built once for the compiler's use.
 *
 * The text between the markers is what the compiler hands to cffi's cdef().
 *
 * Every quantize_* writes standard GGUF blocks: rows of k weights, row-major and
 * contiguous, become rows of blocks, contiguous. The arithmetic is float32 in the
 * order written here, never contracted or reassociated, and the same whatever the
 * width of the machine's vectors; compiler/formats/ holds a NumPy twin of
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
/* cdef-end */

/* What the file of a format gives.
 *
 * quantize_<format>: x: float[rows][k]. importance: float[k], the weight of each column's squared error,
 * positive and finite, or NULL for all equal; float formats, rounded to nearest, ties to even, do not look
 * at it. out: uint8[rows][k / block * block bytes].
 * dequantize_<format>: blocks back to float[rows][k], in the order of operations of gguf's decoders. */
#define QUANTIZER(format)                                                                                        \
    int32_t quantize_##format(const float *x, const float *importance, int64_t rows, int64_t k, uint8_t *out);  \
    void dequantize_##format(const uint8_t *in, int64_t rows, int64_t k, float *out);

#pragma GCC visibility pop
#endif

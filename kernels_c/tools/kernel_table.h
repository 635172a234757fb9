/* kernel_table.h: a backend's kernels as pointers, for checks and benchmarks. In a
 * bundle they are static functions; here each backend is one object file that
 * exports one table. */
#ifndef KERNEL_TABLE_H
#define KERNEL_TABLE_H
#include "activations.h"
#include "format_table.h"

typedef void (*panel_kernel)(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                             float *acc, uint8_t *scratch);
typedef void (*dequantize_kernel)(const uint8_t *panels, int64_t row, int32_t k, float *out);
typedef void (*quantize_kernel)(const float *x, int32_t k, int32_t t, int32_t n_tokens,
                                int8_t *codes, float *scales, int16_t *sums);
typedef void (*in_place_kernel)(float *x, int32_t n);
typedef void (*glu_kernel)(const float *gate, const float *up, int32_t n, float *out);
typedef void (*kv_store_kernel)(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v);
typedef void (*attention_kernel)(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t position, int32_t nq,
                                 const float *q, int32_t q_stride, float *out, int32_t out_stride, uint8_t *scratch);
typedef void (*attention_block_kernel)(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t block,
                                       int32_t position, int32_t nq, const float *q, int32_t q_stride,
                                       float *states, uint8_t *scratch);

enum { TABLE_SILU, TABLE_GELU, TABLE_GELU_TANH, TABLE_RELU2, TABLE_TANH, TABLE_SIGMOID, TABLE_SOFTMAX, TABLE_IN_PLACE };
enum { TABLE_GLU_SILU, TABLE_GLU_GELU, TABLE_GLU_GELU_TANH, TABLE_GLU_RELU2, TABLE_GLUS };
#define TABLE_PANELS 16

typedef struct {
    void (*enter)(void), (*leave)(void);  /* what a thread calls before and after its kernels; NULL: nothing */
    struct {
        int32_t k;                  /* 0 ends the list */
        panel_kernel run;
    } panel[TABLE_FORMATS][TABLE_PANELS];
    dequantize_kernel dequantize_row[TABLE_FORMATS];
    quantize_kernel quantize_row_256, quantize_row_32;
    in_place_kernel in_place[TABLE_IN_PLACE];
    glu_kernel glu[TABLE_GLUS];
    void (*rms_norm)(const float *x, const float *w, int32_t n, float eps, float *out);
    void (*layer_norm)(const float *x, const float *w, const float *b, int32_t n, float eps, float *out);
    void (*rope_row)(float *x, int32_t n_rot, const float *cos_sin, int32_t pairing);
    void (*softcap)(float *x, int32_t n, float cap);
    void (*add_rows)(const float *a, const float *b, int32_t n, float *out);
    void (*scale_row)(float *x, int32_t n, float s);
    kv_store_kernel kv_store[TABLE_KV_TYPES];
    attention_kernel attention[TABLE_KV_TYPES];
    attention_block_kernel attention_block[TABLE_KV_TYPES];
    void (*attention_combine)(const attention_shape *s, int32_t position, int32_t nq, int32_t first_block,
                              float *states, float *out, int32_t out_stride);
} kernel_table;
#endif

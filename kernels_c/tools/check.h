/* check.h: what the checks and the benchmark of kernels share. */
#ifndef CHECK_H
#define CHECK_H
#include "kernel_table.h"

typedef struct {
    const char *name;
    const kernel_table *table;
} check_backend;

extern const check_backend check_backends[];   /* ended by a NULL name */

/* ---- random numbers: one stream a case, so that a case can be run again alone ---- */
typedef struct {
    uint64_t state;
} random_stream;

uint64_t random_bits(random_stream *r);
int32_t random_below(random_stream *r, int32_t n);      /* 0 .. n-1 */
float random_normal(random_stream *r);                  /* about N(0, 1) */

/* ---- buffers that notice: canaries before and after, an unmapped page behind ---- */
typedef struct {
    uint8_t *data;         /* ends where the unmapped page begins, alignment permitting */
    int64_t bytes, slack;
    uint8_t *mapping;
    int64_t mapped;
} guarded;

guarded guarded_new(int64_t bytes, int64_t alignment);
int32_t guarded_intact(const guarded *g);
void guarded_free(guarded *g);

/* ---- inputs ---- */
/* 16 GGUF rows of k elements in `rows` (row_bytes_of(format, k) each), by the style of the case. */
int64_t row_bytes_of(int32_t format, int32_t k);
void random_rows(random_stream *r, int32_t format, int32_t k, uint8_t *rows);
void random_floats(random_stream *r, float *x, int64_t n);
int64_t panel_bytes_of(int32_t format, int32_t k);
void pack_rows(int32_t format, const uint8_t *rows, int32_t k, uint8_t *panel);

/* Runs `cases` cases; returns failures, and in *first the seed of the first one. */
int64_t check_panels(const kernel_table *reference, const kernel_table *tested, int32_t format,
                     int64_t cases, uint64_t seed, uint64_t *first);
int64_t check_rows(const kernel_table *reference, const kernel_table *tested, int64_t cases, uint64_t seed, uint64_t *first);
int64_t check_attention(const kernel_table *reference, const kernel_table *tested, int32_t type,
                        int64_t cases, uint64_t seed, uint64_t *first);
int64_t check_threadpool(int64_t cases, uint64_t seed, uint64_t *first);
int bench(const check_backend *reference, const check_backend *tested, int32_t threads, int32_t rounds, int64_t dram_bytes);

/* Equal bits; any NaN equals any NaN. */
int32_t same_floats(const float *a, const float *b, int64_t n);
#endif

/* bench.c: panel kernels warm and from DRAM, beside the read bandwidth of the same round.
 *
 * Rows of BENCH_K elements. GEMM: BENCH_TOKENS tokens over panels that stay in the caches of the
 * weights' first reader. GEMV: 1, 4 and 8 tokens over a buffer far larger than any cache. Rounds
 * alternate; medians and the best are printed, a line of JSON a format. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "check.h"
#include "engine_abi.h"
#include "threadpool.h"
#include "../threadpool.c"

#define BENCH_K 2048
#define BENCH_TOKENS 256
#define BENCH_PANELS 128
#define BENCH_ROUNDS 64
#define MEASURES 4
static const int32_t measure_tokens[MEASURES] = {BENCH_TOKENS, 1, 4, 8};

typedef struct {
    threadpool *pool;
    panel_kernel run;
    const uint8_t *panels;
    int64_t panel_bytes;
    int32_t units, nt;
    activations a;
    float *acc[64];
    uint8_t *scratch[64];
    _Atomic uint64_t sum;
} bench_job;

static void run_panels(void *arg, int32_t thread)
{
    bench_job *job = arg;
    for (int32_t unit; (unit = threadpool_next(job->pool, thread, job->units)) >= 0;)
        job->run(job->panels + unit * job->panel_bytes, &job->a, 0, job->nt, job->acc[thread], job->scratch[thread]);
}

static void read_units(void *arg, int32_t thread)
{
    bench_job *job = arg;
    uint64_t sum = 0;
    for (int32_t unit; (unit = threadpool_next(job->pool, thread, job->units)) >= 0;) {
        const uint64_t *p = (const uint64_t *)(job->panels + unit * job->panel_bytes);
        uint64_t s[8] = {0};
        for (int64_t i = 0; i < job->panel_bytes / 8; i += 8) {
            __builtin_prefetch(p + i + 512);
            for (int32_t j = 0; j < 8; ++j)
                s[j] += p[i + j];
        }
        for (int32_t j = 0; j < 8; ++j)
            sum += s[j];
    }
    job->sum += sum;
}

static double seconds_of(bench_job *job, void (*body)(void *, int32_t))
{
    int64_t start = pool_now_ns();
    threadpool_run(job->pool, body, job);
    return (double)(pool_now_ns() - start) * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static uint8_t *huge(int64_t bytes)
{
    int64_t size = (bytes + (2 << 20) - 1) / (2 << 20) * (2 << 20);
    uint8_t *p = aligned_alloc(2 << 20, (size_t)size);
    if (p == NULL) {
        fprintf(stderr, "bench: %lld bytes cannot be had\n", (long long)size);
        exit(1);
    }
    madvise(p, (size_t)size, MADV_HUGEPAGE);
    return p;
}

int bench(const check_backend *reference, const check_backend *tested, int32_t threads, int32_t rounds, int64_t dram_bytes)
{
    static bench_job job;
    static double seconds[TABLE_FORMATS][MEASURES][BENCH_ROUNDS], reading[BENCH_ROUNDS];
    if (rounds < 1 || rounds > BENCH_ROUNDS || threads > 64 || threadpool_create(threads, &job.pool) != ENGINE_OK) {
        fprintf(stderr, "bench: 1..%d rounds, 1..64 threads\n", BENCH_ROUNDS);
        return 2;
    }
    random_stream r = {1};
    uint8_t *memory = huge(dram_bytes);
    memset(memory, 0x11, (size_t)dram_bytes);
    float *x = malloc(sizeof(float) * BENCH_TOKENS * BENCH_K);
    for (int32_t i = 0; i < BENCH_TOKENS * BENCH_K; ++i)
        x[i] = random_normal(&r);
    /* Of each measure and group, laid out for its own count of tokens, as a step lays them out. */
    static activations inputs[MEASURES][2];
    uint8_t *panels[TABLE_FORMATS];
    for (int32_t m = 0; m < MEASURES; ++m)
        for (int32_t g = 0; g < 2; ++g) {
            int32_t n = measure_tokens[m];
            int8_t *codes = aligned_alloc(64, (size_t)n * BENCH_K);
            float *scales = malloc(sizeof(float) * (size_t)n * BENCH_K / 32);
            int16_t *sums = malloc(sizeof(int16_t) * (size_t)n * BENCH_K / 2);
            for (int32_t t = 0; t < n; ++t)
                (g ? tested->table->quantize_row_256 : tested->table->quantize_row_32)(
                    x + (int64_t)t * BENCH_K, BENCH_K, t, n, codes, scales, sums);
            inputs[m][g] = (activations){n, x, codes, scales, sums};
        }
    for (int32_t format = 0; format < TABLE_FORMATS; ++format) {
        panels[format] = huge(panel_bytes_of(format, BENCH_K) * BENCH_PANELS);
        uint8_t *rows = malloc((size_t)(16 * row_bytes_of(format, BENCH_K)));
        for (int32_t p = 0; p < BENCH_PANELS; ++p) {
            random_rows(&r, format, BENCH_K, rows);
            pack_rows(format, rows, BENCH_K, panels[format] + p * panel_bytes_of(format, BENCH_K));
        }
        free(rows);
    }
    for (int32_t t = 0; t < threads; ++t) {
        job.acc[t] = aligned_alloc(64, 64 * BENCH_TOKENS);
        job.scratch[t] = aligned_alloc(64, PANEL_SCRATCH);
    }

    double reference_seconds[TABLE_FORMATS];
    for (int32_t round = 0; round < rounds; ++round) {
        job.panels = memory;
        job.panel_bytes = 1 << 20;
        job.units = (int32_t)(dram_bytes / job.panel_bytes);
        reading[round] = seconds_of(&job, read_units) / (double)(job.units * job.panel_bytes);
        for (int32_t format = 0; format < TABLE_FORMATS; ++format) {
            int32_t g = format == TABLE_Q6_K || format == TABLE_Q4_K;
            int32_t choice = 0;
            while (tested->table->panel[format][choice].k != BENCH_K)
                ++choice;
            job.run = tested->table->panel[format][choice].run;
            job.panel_bytes = panel_bytes_of(format, BENCH_K);
            for (int32_t m = 0; m < MEASURES; ++m) {
                job.nt = measure_tokens[m];
                job.a = inputs[m][g];
                job.panels = m == 0 ? panels[format] : memory;
                job.units = m == 0 ? BENCH_PANELS : (int32_t)(dram_bytes / job.panel_bytes);
                if (m > 0 && format <= TABLE_BF16 && m > 1)
                    continue;
                seconds[format][m][round] = seconds_of(&job, run_panels);
            }
            if (round == 0) {
                int64_t start = pool_now_ns();
                reference->table->panel[format][choice].run(panels[format], &job.a, 0, 2, job.acc[0], job.scratch[0]);
                reference_seconds[format] = (double)(pool_now_ns() - start) * 1e-9 / 2;
            }
        }
    }
    qsort(reading, (size_t)rounds, sizeof(double), by_value);
    double read_gbs = 1e-9 / reading[rounds / 2], read_best = 1e-9 / reading[0];
    printf("{\"op\": \"read\", \"threads\": %d, \"gb_per_s\": %.2f, \"best_gb_per_s\": %.2f}\n", threads, read_gbs, read_best);
    for (int32_t format = 0; format < TABLE_FORMATS; ++format) {
        double bytes = (double)panel_bytes_of(format, BENCH_K), macs = 16.0 * BENCH_K;
        printf("{\"op\": \"panel\", \"format\": \"%s\", \"k\": %d, \"threads\": %d", format_names[format], BENCH_K, threads);
        for (int32_t m = 0; m < MEASURES; ++m) {
            if (format <= TABLE_BF16 && m > 1)
                continue;
            double *s = seconds[format][m];
            qsort(s, (size_t)rounds, sizeof(double), by_value);
            double units = m == 0 ? BENCH_PANELS : (double)(dram_bytes / panel_bytes_of(format, BENCH_K));
            double median = s[rounds / 2];
            if (m == 0)
                printf(", \"gmac_per_s\": %.1f, \"best_gmac_per_s\": %.1f, \"times_reference\": %.1f",
                       units * macs * BENCH_TOKENS * 1e-9 / median, units * macs * BENCH_TOKENS * 1e-9 / s[0],
                       units * BENCH_TOKENS * reference_seconds[format] / (double)threads / median);
            else
                printf(", \"gemv%d_gb_per_s\": %.2f, \"gemv%d_best_gb_per_s\": %.2f, \"gemv%d_share_of_read\": %.3f",
                       measure_tokens[m], units * bytes * 1e-9 / median, measure_tokens[m], units * bytes * 1e-9 / s[0],
                       measure_tokens[m], units * bytes * 1e-9 / median / read_gbs);
        }
        printf("}\n");
    }
    threadpool_destroy(job.pool);
    return 0;
}

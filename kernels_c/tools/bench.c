/* bench.c: panel kernels warm and from DRAM, beside the read bandwidth of the same round.
 *
 * Rows of BENCH_K elements. Warm: panels that stay in the caches. From DRAM: a buffer far larger
 * than any cache. Rounds alternate; the read bandwidth of a round is that of the fastest of the
 * loops in read_loops.c. A line of JSON a measure: the median of the rounds, and the best. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "check.h"
#include "read_loops.h"
#include "engine_abi.h"
#include "threadpool.h"
#include "../threadpool.c"

#define BENCH_K 2048
#define BENCH_TOKENS 256
#define BENCH_PANELS 128
#define BENCH_ROUNDS 64
#define MEASURES 5
static const struct {
    int32_t tokens, warm;
} measures[MEASURES] = {{BENCH_TOKENS, 1}, {1, 1}, {1, 0}, {4, 0}, {8, 0}};

typedef struct {
    threadpool *pool;
    const kernel_table *table;
    panel_kernel run;
    const uint8_t *panels;
    int64_t panel_bytes;
    int32_t units, nt, loop;
    activations a;
    float *acc[64];
    uint8_t *scratch[64];
    _Atomic uint64_t sum;
} bench_job;

static void run_panels(void *arg, int32_t thread)
{
    bench_job *job = arg;
    if (job->table->enter)
        job->table->enter();
    for (int32_t unit; (unit = threadpool_next(job->pool, thread, job->units)) >= 0;)
        job->run(job->panels + unit * job->panel_bytes, &job->a, 0, job->nt, job->acc[thread], job->scratch[thread]);
    if (job->table->leave)
        job->table->leave();
}

static void read_memory(void *arg, int32_t thread)
{
    bench_job *job = arg;
    uint64_t sum = 0;
    for (int32_t unit; (unit = threadpool_next(job->pool, thread, job->units)) >= 0;)
        sum += read_loops[job->loop].read(job->panels + (int64_t)unit * READ_UNIT_BYTES);
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
    if (dram_bytes < READ_UNIT_BYTES)
        dram_bytes = READ_UNIT_BYTES;
    uint8_t *memory = huge(dram_bytes + 4096); /* prefetches run past the end */
    memset(memory, 0x11, (size_t)dram_bytes);
    float *x = malloc(sizeof(float) * BENCH_TOKENS * BENCH_K);
    for (int32_t i = 0; i < BENCH_TOKENS * BENCH_K; ++i)
        x[i] = random_normal(&r);
    /* Of each measure and group, laid out for its own count of tokens, as a step lays them out. */
    static activations inputs[MEASURES][2];
    uint8_t *panels[TABLE_FORMATS];
    for (int32_t m = 0; m < MEASURES; ++m)
        for (int32_t g = 0; g < 2; ++g) {
            const int32_t n = measures[m].tokens;
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
        job.units = (int32_t)(dram_bytes / READ_UNIT_BYTES);
        for (job.loop = 0; job.loop < n_read_loops; ++job.loop) {
            const double spent = seconds_of(&job, read_memory) / ((double)job.units * READ_UNIT_BYTES);
            if (job.loop == 0 || spent < reading[round])
                reading[round] = spent;
        }
        for (int32_t format = 0; format < TABLE_FORMATS; ++format) {
            int32_t g = formats[format].group == 256;
            int32_t choice = 0;
            while (tested->table->panel[format][choice].k != BENCH_K)
                ++choice;
            job.table = tested->table;
            job.run = tested->table->panel[format][choice].run;
            job.panel_bytes = panel_bytes_of(format, BENCH_K);
            for (int32_t m = 0; m < MEASURES; ++m) {
                job.nt = measures[m].tokens;
                job.a = inputs[m][g];
                job.panels = measures[m].warm ? panels[format] : memory;
                job.units = measures[m].warm ? BENCH_PANELS : (int32_t)(dram_bytes / job.panel_bytes);
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
    const double read_rate = 1 / reading[rounds / 2];
    printf("{\"op\": \"read\", \"threads\": %d, \"gb_per_s\": %.2f, \"best_gb_per_s\": %.2f}\n", threads,
           read_rate * 1e-9, 1e-9 / reading[0]);
    for (int32_t format = 0; format < TABLE_FORMATS; ++format) {
        const double bytes = (double)panel_bytes_of(format, BENCH_K), macs = 16.0 * BENCH_K;
        for (int32_t m = 0; m < MEASURES; ++m) {
            double *s = seconds[format][m];
            qsort(s, (size_t)rounds, sizeof(double), by_value);
            const double units = measures[m].warm ? BENCH_PANELS : (double)(dram_bytes / panel_bytes_of(format, BENCH_K));
            const double median = s[rounds / 2], all = units * macs * measures[m].tokens;
            printf("{\"op\": \"panel\", \"format\": \"%s\", \"k\": %d, \"tokens\": %d, \"weights\": \"%s\", \"threads\": %d",
                   formats[format].name, BENCH_K, measures[m].tokens, measures[m].warm ? "cache" : "dram", threads);
            printf(", \"gb_per_s\": %.2f, \"share_of_read\": ", units * bytes * 1e-9 / median);
            if (measures[m].warm)
                printf("null");
            else
                printf("%.3f", units * bytes / median / read_rate);
            printf(", \"gmac_per_s\": %.1f, \"best_gmac_per_s\": %.1f, \"times_reference\": %.1f}\n", all * 1e-9 / median,
                   all * 1e-9 / s[0], units * measures[m].tokens * reference_seconds[format] / (double)threads / median);
        }
    }
    threadpool_destroy(job.pool);
    return 0;
}

/* peak.c: how many multiply-adds this machine can do with the instructions of a backend, the limit
 * of prefill. Compiled with the backend's flags; the loops are those that these flags allow.
 *
 * Every loop works on registers alone, on chains that do not wait for one another: no kernel that
 * also loads its operands can be faster. The instructions are written out, so that no compiler
 * leaves any away. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#pragma GCC visibility push(default)
/* cdef-begin */
typedef struct peak_probe peak_probe;

peak_probe *peak_open(int32_t threads); /* NULL if the threads cannot be had */
void peak_close(peak_probe *p);         /* NULL is allowed */

/* The loops there are; what one does, NULL past the last; the widest codes of weights that it is right
 * for, in bits, 0 where it multiplies floats. */
int32_t peak_loops(void);
const char *peak_loop(int32_t loop);
int32_t peak_bits(int32_t loop);

/* Multiply-adds per second of all threads together, over a few milliseconds; 0 if there is no such loop. */
double peak_pass(peak_probe *p, int32_t loop);
/* cdef-end */
#pragma GCC visibility pop

#include "engine_abi.h"
#include "threadpool.h"
#include "threadpool.c"

#define PASS_MACS 200e6 /* of a thread: some milliseconds */

/* A body and what it is worth: run(rounds) executes it so often. */
typedef struct {
    void (*run)(int64_t rounds);
    double macs; /* in one round */
    int32_t bits;
    const char *name;
} peak_body;

#define REPEAT12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define REPEAT4(X) X(0) X(1) X(2) X(3)

#if defined(__AVX2__) && defined(__FMA__)
static void fma_256(int64_t rounds)
{
    __m256 a = _mm256_set1_ps(0.5f), b = a, sum[12];
    memset(sum, 0, sizeof sum);
    while (rounds-- > 0) {
#define STEP(i) __asm__ volatile("vfmadd231ps %1, %2, %0" : "+x"(sum[i]) : "x"(a), "x"(b));
        REPEAT12(STEP)
#undef STEP
    }
}

/* `count` products of codes narrow enough stay within int16 before they are widened. */
static inline __attribute__((always_inline)) void maddubs_by_256(int64_t rounds, const int count)
{
    __m256i w = _mm256_set1_epi8(7), x = _mm256_set1_epi8(-3), one = _mm256_set1_epi16(1), pair[4], part[4], sum[4];
    memset(sum, 0, sizeof sum);
    while (rounds-- > 0) {
#define STEP(i) __asm__ volatile("vpmaddubsw %1, %2, %0" : "=x"(part[i]) : "x"(x), "x"(w));
        REPEAT4(STEP)
#undef STEP
#define STEP(i)                                                                            \
        __asm__ volatile("vpmaddubsw %1, %2, %0" : "=x"(pair[i]) : "x"(x), "x"(w));        \
        __asm__ volatile("vpaddw %1, %0, %0" : "+x"(part[i]) : "x"(pair[i]));
        for (int i = 1; i < count; ++i) {
            REPEAT4(STEP)
        }
#undef STEP
#define STEP(i)                                                                            \
        __asm__ volatile("vpmaddwd %1, %0, %0" : "+x"(part[i]) : "x"(one));                \
        __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum[i]) : "x"(part[i]));
        REPEAT4(STEP)
#undef STEP
    }
}
static void maddubs_by_1_256(int64_t rounds) { maddubs_by_256(rounds, 1); }
static void maddubs_by_2_256(int64_t rounds) { maddubs_by_256(rounds, 2); }
static void maddubs_by_4_256(int64_t rounds) { maddubs_by_256(rounds, 4); }
static void maddubs_by_8_256(int64_t rounds) { maddubs_by_256(rounds, 8); }
#endif

#if defined(__AVX512F__)
static void fma_512(int64_t rounds)
{
    __m512 a = _mm512_set1_ps(0.5f), b = a, sum[12];
    memset(sum, 0, sizeof sum);
    while (rounds-- > 0) {
#define STEP(i) __asm__ volatile("vfmadd231ps %1, %2, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
        REPEAT12(STEP)
#undef STEP
    }
}
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
static void dpbusd_256(int64_t rounds)
{
    __m256i w = _mm256_set1_epi8(7), x = _mm256_set1_epi8(-3), sum[12];
    memset(sum, 0, sizeof sum);
    while (rounds-- > 0) {
#define STEP(i) __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(sum[i]) : "v"(x), "v"(w));
        REPEAT12(STEP)
#undef STEP
    }
}

static void dpbusd_512(int64_t rounds)
{
    __m512i w = _mm512_set1_epi8(7), x = _mm512_set1_epi8(-3), sum[12];
    memset(sum, 0, sizeof sum);
    while (rounds-- > 0) {
#define STEP(i) __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(sum[i]) : "v"(x), "v"(w));
        REPEAT12(STEP)
#undef STEP
    }
}
#endif

#if !(defined(__AVX2__) && defined(__FMA__))
/* Whatever the compiler makes of C without flags. */
static volatile float float_factor = 0.5f;
static volatile int32_t integer_factor = 3;

static void plain_float(int64_t rounds)
{
    float a = float_factor, sum[16] = {0};
    while (rounds-- > 0)
        for (int i = 0; i < 16; ++i)
            sum[i] = sum[i] * a + a;
    for (int i = 0; i < 16; ++i)
        float_factor = sum[i];
    float_factor = a;
}

static void plain_integer(int64_t rounds)
{
    uint32_t a = (uint32_t)integer_factor, sum[16] = {0};
    while (rounds-- > 0)
        for (int i = 0; i < 16; ++i)
            sum[i] = sum[i] * a + a;
    for (int i = 0; i < 16; ++i)
        integer_factor = (int32_t)sum[i];
    integer_factor = (int32_t)a;
}
#endif

static const peak_body bodies[] = {
#if defined(__AVX2__) && defined(__FMA__)
    {fma_256, 12 * 8, 0, "fp32 fma, 256 bit"},
    {maddubs_by_1_256, 4 * 1 * 32, 8, "maddubs + madd + add, 256 bit"},
    {maddubs_by_2_256, 4 * 2 * 32, 6, "2 maddubs + add, then madd + add, 256 bit"},
    {maddubs_by_4_256, 4 * 4 * 32, 5, "4 maddubs + 3 add, then madd + add, 256 bit"},
    {maddubs_by_8_256, 4 * 8 * 32, 4, "8 maddubs + 7 add, then madd + add, 256 bit"},
#endif
#if defined(__AVX512F__)
    {fma_512, 12 * 16, 0, "fp32 fma, 512 bit"},
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    {dpbusd_256, 12 * 32, 8, "vpdpbusd, 256 bit"},
    {dpbusd_512, 12 * 64, 8, "vpdpbusd, 512 bit"},
#endif
#if !(defined(__AVX2__) && defined(__FMA__))
    {plain_float, 16, 0, "float multiply and add in plain C"},
    {plain_integer, 16, 8, "32-bit multiply and add in plain C"},
#endif
};
#define N_BODIES ((int32_t)(sizeof bodies / sizeof *bodies))

struct peak_probe {
    threadpool *pool;
    int32_t threads;
};

peak_probe *peak_open(int32_t threads)
{
    peak_probe *p = calloc(1, sizeof *p);
    if (p == NULL || threadpool_create(threads, &p->pool) != ENGINE_OK) {
        free(p);
        return NULL;
    }
    p->threads = threads;
    return p;
}

void peak_close(peak_probe *p)
{
    if (p == NULL)
        return;
    threadpool_destroy(p->pool);
    free(p);
}

int32_t peak_loops(void) { return N_BODIES; }

const char *peak_loop(int32_t loop) { return loop >= 0 && loop < N_BODIES ? bodies[loop].name : NULL; }

int32_t peak_bits(int32_t loop) { return loop >= 0 && loop < N_BODIES ? bodies[loop].bits : -1; }

static void run_body(void *body, int32_t thread)
{
    (void)thread;
    const peak_body *b = body;
    b->run((int64_t)(PASS_MACS / b->macs));
}

double peak_pass(peak_probe *p, int32_t loop)
{
    if (loop < 0 || loop >= N_BODIES)
        return 0;
    peak_body body = bodies[loop];
    const int64_t begin = pool_now_ns();
    threadpool_run(p->pool, run_body, &body);
    const int64_t ns = pool_now_ns() - begin;
    const double macs = body.macs * (double)(int64_t)(PASS_MACS / body.macs) * p->threads;
    return macs * 1e9 / (double)(ns > 0 ? ns : 1);
}

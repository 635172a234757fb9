/* threads.c: what more threads bring here and now: the way between two CPUs, and steps like those
 * of a model, on the engine's own pool.
 *
 * A unit of a step is 32-bit multiply-adds on registers, in chains that do not wait for one another:
 * it fills the multiplier of a core, so that two CPUs that are one core show it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

#pragma GCC visibility push(default)
/* cdef-begin */
typedef struct threads_probe threads_probe;

/* Steps of `phases` phases of `units` units, each of `rounds` rounds of 16 multiply-adds, on so many
 * threads; NULL if the threads cannot be had. One thread at a time may use a probe. */
threads_probe *threads_open(int32_t threads, int32_t phases, int32_t units, int32_t rounds);
void threads_close(threads_probe *p); /* NULL is allowed */

/* Nanoseconds of one step; the first ones of a probe also wake its threads. */
double threads_step(threads_probe *p);

/* Nanoseconds that a word takes to another CPU and back, in the fastest of so many groups of 100
 * round trips; 0 if these CPUs may not be used. Ends after some 20 ms, done or not. */
double threads_round_trip(int32_t first, int32_t second, int32_t groups);
/* cdef-end */
#pragma GCC visibility pop

#include "engine_abi.h"
#include "threadpool.h"
#include "threadpool.c"

#define GROUP 100
#define PATIENCE_NS 20000000

struct threads_probe {
    threadpool *pool;
    int32_t phases, units, rounds;   /* constant: threads may be late */
};

threads_probe *threads_open(int32_t threads, int32_t phases, int32_t units, int32_t rounds)
{
    threads_probe *p = calloc(1, sizeof *p);
    if (p == NULL || threadpool_create(threads, &p->pool) != ENGINE_OK) {
        free(p);
        return NULL;
    }
    p->phases = phases;
    p->units = units;
    p->rounds = rounds;
    return p;
}

void threads_close(threads_probe *p)
{
    if (p == NULL)
        return;
    threadpool_destroy(p->pool);
    free(p);
}

static void multiply(int32_t rounds)
{
    volatile uint32_t factor = 3;
    const uint32_t a = factor;
    uint32_t sum[16] = {0};
    while (rounds-- > 0)
        for (int i = 0; i < 16; ++i)
            sum[i] = sum[i] * a + a;
    for (int i = 0; i < 16; ++i)
        factor = sum[i];
}

static void step(void *arg, int32_t thread)
{
    const threads_probe *p = arg;
    for (int32_t phase = 0; phase < p->phases; ++phase) {
        while (threadpool_next(p->pool, thread, p->units) >= 0)
            multiply(p->rounds);
        threadpool_complete(p->pool, thread);
    }
}

double threads_step(threads_probe *p)
{
    const int64_t begin = pool_now_ns();
    threadpool_step(p->pool, step, p);
    return (double)(pool_now_ns() - begin);
}

/* ---- the way between two CPUs --------------------------------------------- */

typedef struct {
    _Alignas(POOL_LINE) _Atomic int64_t word;   /* odd: there; even: back; -1: it ends */
    int32_t first, second, groups;
    double best;
} exchange;

static int pin(int32_t cpu)
{
    unsigned long mask[1024 / sizeof(long)] = {0};
    const int32_t bits = 8 * sizeof(long);
    if (cpu < 0 || cpu >= bits * (int32_t)(sizeof mask / sizeof *mask))
        return 0;
    mask[cpu / bits] = 1ul << (cpu % bits);
    return syscall(SYS_sched_setaffinity, 0, sizeof mask, mask) == 0;
}

static void *answer(void *arg)
{
    exchange *e = arg;
    if (!pin(e->second))
        atomic_store(&e->word, -1);
    for (;;) {
        const int64_t word = atomic_load_explicit(&e->word, memory_order_acquire);
        int64_t seen = word;
        if (word < 0)
            return NULL;
        if (word & 1)
            atomic_compare_exchange_strong(&e->word, &seen, word + 1);
        else
            pool_pause();
    }
}

static void *ask(void *arg)
{
    exchange *e = arg;
    int64_t word = 0;
    const int64_t start = pool_now_ns();
    for (int32_t group = pin(e->first) ? 0 : e->groups; group < e->groups; ++group) {
        const int64_t begin = pool_now_ns();
        for (int32_t i = 0; i < GROUP; ++i) {
            int64_t expected = word;
            if (!atomic_compare_exchange_strong(&e->word, &expected, word + 1))
                return NULL;
            word += 2;
            for (int64_t polls = 1;; ++polls) {
                const int64_t now = atomic_load_explicit(&e->word, memory_order_acquire);
                if (now == word)
                    break;
                if (now < 0 || (polls % 4096 == 0 && pool_now_ns() - start > PATIENCE_NS))
                    goto end;
                pool_pause();
            }
        }
        const double ns = (double)(pool_now_ns() - begin) / GROUP;
        e->best = e->best == 0 || ns < e->best ? ns : e->best;
    }
end:
    atomic_store(&e->word, -1);
    return NULL;
}

double threads_round_trip(int32_t first, int32_t second, int32_t groups)
{
    exchange e = {.first = first, .second = second, .groups = groups};
    pthread_t other, one;
    if (first == second || pthread_create(&other, NULL, answer, &e) != 0)
        return 0;
    if (pthread_create(&one, NULL, ask, &e) == 0)
        pthread_join(one, NULL);
    atomic_store(&e.word, -1);
    pthread_join(other, NULL);
    return e.best;
}

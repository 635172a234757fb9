/* bandwidth.c: how fast memory can be read here and now, the limit of decode.
 *
 * Every thread sums its own part of one anonymous buffer, which it has touched first (so that the
 * pages lie near it) and which is far larger than any cache. Sixteen 8-byte accumulators keep the
 * adders out of the way; the sum is returned so that no read can be left out. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_THREADS 1024

#pragma GCC visibility push(default)
/* cdef-begin */
/* Bytes per second that `threads` threads read together from `bytes` of memory, over `passes`
 * passes; 0 if the memory or the threads cannot be had. *checksum proves that it was read. */
double read_bandwidth(int32_t threads, uint64_t bytes, int32_t passes, uint64_t *checksum);
/* cdef-end */
#pragma GCC visibility pop

enum { WAIT, READ, GIVE_UP };

typedef struct {
    uint64_t *words;     /* this thread's part */
    uint64_t count;      /* words in it, a multiple of 16 */
    int32_t passes;
    _Atomic int *ready;  /* threads that have touched their part */
    _Atomic int *signal; /* WAIT until all are ready */
    uint64_t sum;
} part;

static void *read_part(void *arg)
{
    part *p = arg;
    memset(p->words, 1, p->count * 8);
    atomic_fetch_add(p->ready, 1);
    while (atomic_load(p->signal) == WAIT)
        sched_yield();
    uint64_t s[16] = {0};
    for (int32_t pass = 0; pass < p->passes && atomic_load(p->signal) == READ; ++pass)
        for (uint64_t i = 0; i < p->count; i += 16) {
            __builtin_prefetch(p->words + i + 512);
            for (int32_t j = 0; j < 16; ++j)
                s[j] += p->words[i + j];
        }
    for (int32_t j = 0; j < 16; ++j)
        p->sum += s[j];
    return NULL;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double read_bandwidth(int32_t threads, uint64_t bytes, int32_t passes, uint64_t *checksum)
{
    *checksum = 0;
    if (threads < 1 || threads > MAX_THREADS || passes < 1)
        return 0;
    const uint64_t count = bytes / 8 / (uint64_t)threads / 16 * 16;
    const uint64_t size = count * 8 * (uint64_t)threads + 8192; /* the prefetches run past the end */
    part *parts = calloc((size_t)threads, sizeof *parts);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    uint64_t *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (count == 0 || parts == NULL || ids == NULL || words == MAP_FAILED) {
        free(parts);
        free(ids);
        if (words != MAP_FAILED)
            munmap(words, size);
        return 0;
    }
    madvise(words, size, MADV_HUGEPAGE);
    _Atomic int ready = 0, signal = WAIT;
    int32_t started = 0;
    for (; started < threads; ++started) {
        parts[started] = (part){words + count * (uint64_t)started, count, passes, &ready, &signal, 0};
        if (pthread_create(&ids[started], NULL, read_part, &parts[started]) != 0)
            break;
    }
    while (atomic_load(&ready) < started)
        sched_yield();
    const double begin = now();
    atomic_store(&signal, started == threads ? READ : GIVE_UP);
    for (int32_t i = 0; i < started; ++i) {
        pthread_join(ids[i], NULL);
        *checksum += parts[i].sum;
    }
    const double seconds = now() - begin;
    free(parts);
    free(ids);
    munmap(words, size);
    return started == threads ? (double)count * 8.0 * threads * passes / seconds : 0;
}

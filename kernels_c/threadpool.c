/* threadpool.c: see include/threadpool.h. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POOL_LINE 128            /* two lines: the neighbour line is prefetched too */
#define POOL_POLLS 64            /* plain loads before the first pause */
#define POOL_SPIN_NS 30000       /* pausing before sleeping */
#define POOL_MAX_THREADS 1024

/* A word that one side raises and others wait for. */
typedef struct {
    _Alignas(POOL_LINE) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} pool_signal;

typedef struct {
    pool_signal arrived;
    _Alignas(POOL_LINE) _Atomic int32_t taken;   /* units handed out of this thread's share */
    uint32_t generation;                          /* barriers this thread has entered */
    pthread_t handle;
} pool_thread;

struct threadpool {
    int32_t threads;
    void (*body)(void *arg, int32_t thread);      /* NULL: leave */
    void *arg;
    pool_signal release;
    pool_thread thread[];
};

typedef struct {
    threadpool *pool;
    int32_t thread;
} pool_start;

#if defined(__SSE__)
#include <xmmintrin.h>
#define POOL_MXCSR_DEFAULT 0x1f80u
static inline uint32_t pool_float_default(void)
{
    uint32_t before = _mm_getcsr();
    _mm_setcsr(POOL_MXCSR_DEFAULT);
    return before;
}
static inline void pool_float_restore(uint32_t before) { _mm_setcsr(before); }
static inline void pool_pause(void) { _mm_pause(); }
#else
static inline uint32_t pool_float_default(void) { return 0; }
static inline void pool_float_restore(uint32_t before) { (void)before; }
static inline void pool_pause(void) {}
#endif

static int64_t pool_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pool_raise(pool_signal *s, uint32_t value)
{
    atomic_store(&s->value, value);               /* seq_cst: before the look at sleepers */
    if (atomic_load(&s->sleepers) != 0)
        syscall(SYS_futex, &s->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void pool_await(pool_signal *s, uint32_t value)
{
    for (int32_t i = 0; i < POOL_POLLS; ++i)
        if (atomic_load_explicit(&s->value, memory_order_acquire) == value)
            return;
    int64_t start = pool_now_ns();
    do {
        for (int32_t i = 0; i < 16; ++i) {
            if (atomic_load_explicit(&s->value, memory_order_acquire) == value)
                return;
            pool_pause();
        }
    } while (pool_now_ns() - start < POOL_SPIN_NS);
    atomic_fetch_add(&s->sleepers, 1);
    for (;;) {
        uint32_t seen = atomic_load(&s->value);
        if (seen == value)
            break;
        syscall(SYS_futex, &s->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    }
    atomic_fetch_sub(&s->sleepers, 1);
}

/* Thread 0 waits until all others have entered barrier `generation`. */
static void pool_gather(threadpool *p, uint32_t generation)
{
    for (int32_t i = 1; i < p->threads; ++i)
        pool_await(&p->thread[i].arrived, generation);
}

static void threadpool_barrier(threadpool *p, int32_t thread)
{
    uint32_t generation = ++p->thread[thread].generation;
    if (thread != 0) {
        pool_raise(&p->thread[thread].arrived, generation);
        pool_await(&p->release, generation);
        return;
    }
    pool_gather(p, generation);
    for (int32_t i = 0; i < p->threads; ++i)
        atomic_store_explicit(&p->thread[i].taken, 0, memory_order_relaxed);
    if (p->threads > 1)
        pool_raise(&p->release, generation);
}

static int32_t threadpool_next(threadpool *p, int32_t thread, int32_t n_units)
{
    int32_t threads = p->threads;
    if (threads == 1) {
        int32_t unit = atomic_load_explicit(&p->thread[0].taken, memory_order_relaxed);
        if (unit >= n_units)
            return -1;
        atomic_store_explicit(&p->thread[0].taken, unit + 1, memory_order_relaxed);
        return unit;
    }
    for (int32_t i = 0; i < threads; ++i) {
        int32_t owner = thread + i < threads ? thread + i : thread + i - threads;
        int32_t first = (int32_t)((int64_t)n_units * owner / threads);
        int32_t count = (int32_t)((int64_t)n_units * (owner + 1) / threads) - first;
        if (atomic_load_explicit(&p->thread[owner].taken, memory_order_relaxed) >= count)
            continue;
        int32_t unit = atomic_fetch_add_explicit(&p->thread[owner].taken, 1, memory_order_relaxed);
        if (unit < count)
            return first + unit;
    }
    return -1;
}

/* A worker lives inside barriers: the one it waits in between runs is the one that
 * threadpool_run opens. */
static void *pool_worker(void *start)
{
    threadpool *p = ((pool_start *)start)->pool;
    int32_t thread = ((pool_start *)start)->thread;
    free(start);
    pool_float_default();
    for (;;) {
        threadpool_barrier(p, thread);
        if (p->body == NULL)
            return NULL;
        p->body(p->arg, thread);
    }
}

static void threadpool_run(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg)
{
    uint32_t before = pool_float_default();
    p->body = body;
    p->arg = arg;
    threadpool_barrier(p, 0);
    body(arg, 0);
    pool_gather(p, p->thread[0].generation + 1);
    pool_float_restore(before);
}

static int32_t threadpool_threads(const threadpool *p) { return p->threads; }

static void threadpool_destroy(threadpool *p)
{
    if (p == NULL)
        return;
    p->body = NULL;
    threadpool_barrier(p, 0);
    for (int32_t i = 1; i < p->threads; ++i)
        pthread_join(p->thread[i].handle, NULL);
    free(p);
}

static int32_t threadpool_create(int32_t threads, threadpool **out)
{
    *out = NULL;
    if (threads < 1 || threads > POOL_MAX_THREADS)
        return ENGINE_E_ARGUMENT;
    size_t bytes = sizeof(threadpool) + (size_t)threads * sizeof(pool_thread);
    threadpool *p = aligned_alloc(POOL_LINE, (bytes + POOL_LINE - 1) / POOL_LINE * POOL_LINE);
    if (p == NULL)
        return ENGINE_E_MEMORY;
    memset(p, 0, bytes);
    p->threads = 1;
    /* Workers take no signals: handlers belong to the caller's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int32_t error = ENGINE_OK;
    int32_t started = 1;
    /* Workers read p->threads only after the first barrier, which the caller opens. */
    for (; started < threads; ++started) {
        pool_start *start = malloc(sizeof *start);
        if (start == NULL) {
            error = ENGINE_E_MEMORY;
            break;
        }
        *start = (pool_start){p, started};
        if (pthread_create(&p->thread[started].handle, NULL, pool_worker, start) != 0) {
            free(start);
            error = ENGINE_E_THREADS;
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    p->threads = started;
    if (error != ENGINE_OK) {
        threadpool_destroy(p);
        return error;
    }
    *out = p;
    return ENGINE_OK;
}

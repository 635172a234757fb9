/* threadpool.c: see include/threadpool.h.
 *
 * A word is an epoch (40 bits) and a count of units (24 bits). A thread's share has a word of
 * the units taken from it, which others change too, by compare-and-swap; and every thread has
 * a word of the units it has done, which only it writes. A phase is over when the words of
 * that epoch add up to its units, or when some thread is in a later epoch already.
 *
 * That a late thread takes nothing: it reads the number of units, then the share's word, then
 * `completed`. If its phase was not over at that last moment, number and word were the phase's
 * own; and if the phase is over by the time of the swap, the word has changed. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POOL_LINE 128            /* two lines: the neighbour line is prefetched too */
#define POOL_POLLS 64            /* plain loads before the first pause */
#define POOL_PAUSE_NS 5000       /* pausing before yielding */
#define POOL_SPIN_NS 50000       /* pausing and yielding before sleeping */
#define POOL_LOOK_NS 100000000   /* how often the CPUs that may be used are counted */
#define POOL_MAX_THREADS 1024
#define POOL_COUNT_BITS 24
#define POOL_COUNT(word) ((int32_t)((word) & ((1u << POOL_COUNT_BITS) - 1)))
#define POOL_WORD(epoch, count) ((uint64_t)(epoch) << POOL_COUNT_BITS | (uint64_t)(uint32_t)(count))
#define POOL_STALE ((int64_t)1 << 30)     /* epochs behind which a word is brought up to date */

/* Where a thread is: about to take a unit, with one in its hands, after a phase. */
enum { POOL_TAKING, POOL_HOLDING, POOL_BETWEEN };
#ifndef POOL_HOOK
#define POOL_HOOK(thread, place) ((void)0)   /* tests hold a thread up there */
#endif

/* A bell that threads sleep by. */
typedef struct {
    _Alignas(POOL_LINE) _Atomic uint32_t rung;
    _Atomic uint32_t sleepers;
} pool_bell;

typedef struct {
    _Alignas(POOL_LINE) _Atomic uint64_t taken;   /* units handed out of this thread's share */
    _Alignas(POOL_LINE) _Atomic uint64_t done;    /* units this thread has done */
    _Alignas(POOL_LINE) _Atomic uint64_t inside;  /* the start whose body it is in; 0: none */
    _Atomic uint64_t ran;                         /* the last start whose body it has returned from */
    uint64_t epoch;                               /* of its phase; the rest is its own alone */
    int32_t n_units;
    int32_t holds, count;                         /* whether it has a unit; units done in this phase */
    pthread_t handle;
} pool_thread;

struct threadpool {
    int32_t threads;
    void (*body)(void *arg, int32_t thread);      /* NULL: leave */
    void *arg;
    uint64_t waited_ns, looked_ns;
    _Atomic int32_t active;                       /* threads that take part in a step */
    _Alignas(POOL_LINE) _Atomic uint64_t start;   /* first epoch of the step, doubled; + 1: it is over */
    _Alignas(POOL_LINE) _Atomic uint64_t completed;   /* the last epoch known to be over */
    pool_bell started, parked, ended;
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

/* How far epoch a is ahead of epoch b; both have 40 bits and are less than 2^39 apart. */
static inline int64_t pool_ahead(uint64_t a, uint64_t b)
{
    return (int64_t)((a - b) << POOL_COUNT_BITS) >> POOL_COUNT_BITS;
}

static inline uint64_t pool_epoch(uint64_t word) { return word >> POOL_COUNT_BITS; }

static void pool_ring(pool_bell *bell)
{
    if (atomic_load(&bell->sleepers) == 0)
        return;
    atomic_fetch_add(&bell->rung, 1);
    syscall(SYS_futex, &bell->rung, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

typedef int pool_question(threadpool *p, int32_t thread);

/* Waits until ready(p, thread). `quick` is asked between: it reads one line, and may say no for long. */
static void pool_await(threadpool *p, int32_t thread, pool_question *quick, pool_question *ready, pool_bell *bell)
{
    for (int32_t i = 0; i < POOL_POLLS; ++i)
        if (quick(p, thread))
            return;
    const int64_t began = pool_now_ns();
    for (int64_t waited = 0; waited < POOL_SPIN_NS; waited = pool_now_ns() - began) {
        for (int32_t i = 0; i < 16; ++i) {
            if (quick(p, thread))
                return;
            pool_pause();
        }
        if (ready(p, thread))
            return;
        if (waited > POOL_PAUSE_NS)
            sched_yield();
    }
    atomic_fetch_add(&bell->sleepers, 1);
    for (;;) {
        const uint32_t rung = atomic_load(&bell->rung);   /* before the last look: no bell is missed */
        if (ready(p, thread))
            break;
        syscall(SYS_futex, &bell->rung, FUTEX_WAIT_PRIVATE, rung, NULL, NULL, 0);
    }
    atomic_fetch_sub(&bell->sleepers, 1);
}

/* ---- a phase --------------------------------------------------------------- */

static inline int pool_over(threadpool *p, uint64_t epoch)
{
    return pool_ahead(atomic_load_explicit(&p->completed, memory_order_acquire), epoch) >= 0;
}

/* Says that an epoch is over, unless a later one is known to be. */
static void pool_complete(threadpool *p, uint64_t epoch)
{
    uint64_t known = atomic_load(&p->completed);
    while (pool_ahead(epoch, known) > 0)
        if (atomic_compare_exchange_weak(&p->completed, &known, epoch)) {
            pool_ring(&p->ended);
            return;
        }
}

static int pool_phase_known(threadpool *p, int32_t thread) { return pool_over(p, p->thread[thread].epoch); }

/* Whether the thread's phase is over. */
static int pool_phase_over(threadpool *p, int32_t thread)
{
    const uint64_t epoch = p->thread[thread].epoch;
    if (pool_over(p, epoch))
        return 1;
    int64_t done = 0;
    for (int32_t i = 0; i < p->threads; ++i) {
        const uint64_t word = atomic_load(&p->thread[i].done);
        const int64_t ahead = pool_ahead(pool_epoch(word), epoch);
        if (ahead > 0)
            return 1;
        done += ahead == 0 ? POOL_COUNT(word) : 0;
    }
    if (done < p->thread[thread].n_units)
        return 0;
    pool_complete(p, epoch);
    return 1;
}

/* A unit of `owner`'s share of `count` units, or -1 where none is left or the phase is over. */
static inline int32_t pool_take(threadpool *p, int32_t thread, int32_t owner, int32_t count)
{
    const uint64_t epoch = p->thread[thread].epoch;
    uint64_t word = atomic_load_explicit(&p->thread[owner].taken, memory_order_acquire);
    for (;;) {
        const int64_t ahead = pool_ahead(pool_epoch(word), epoch);
        const int32_t taken = ahead == 0 ? POOL_COUNT(word) : 0;
        if (ahead > 0 || taken >= count || pool_over(p, epoch))
            return -1;
        POOL_HOOK(thread, POOL_TAKING);
        if (atomic_compare_exchange_weak(&p->thread[owner].taken, &word, POOL_WORD(epoch, taken + 1)))
            return taken;
    }
}

static int32_t threadpool_next(threadpool *p, int32_t thread, int32_t n_units)
{
    pool_thread *t = &p->thread[thread];
    const int32_t threads = p->threads;
    t->n_units = n_units;
    if (threads == 1)
        return t->count < n_units ? t->count++ : -1;
    if (t->holds) {
        t->count++;
        t->holds = 0;
        atomic_store(&t->done, POOL_WORD(t->epoch, t->count));
    }
    for (int32_t i = 0; i < threads; ++i) {
        const int32_t owner = thread + i < threads ? thread + i : thread + i - threads;
        const int32_t first = (int32_t)((int64_t)n_units * owner / threads);
        const int32_t count = (int32_t)((int64_t)n_units * (owner + 1) / threads) - first;
        if (count == 0)
            continue;
        const int32_t unit = pool_take(p, thread, owner, count);
        if (unit >= 0) {
            t->holds = 1;
            POOL_HOOK(thread, POOL_HOLDING);
            return first + unit;
        }
    }
    return -1;
}

static void threadpool_complete(threadpool *p, int32_t thread)
{
    pool_thread *t = &p->thread[thread];
    if (p->threads > 1 && !pool_phase_over(p, thread)) {
        const int64_t began = thread == 0 ? pool_now_ns() : 0;
        pool_await(p, thread, pool_phase_known, pool_phase_over, &p->ended);
        if (thread == 0)
            p->waited_ns += (uint64_t)(pool_now_ns() - began);
    }
    POOL_HOOK(thread, POOL_BETWEEN);
    t->epoch++;
    t->count = 0;
}

/* ---- a step ---------------------------------------------------------------- */

static int pool_takes_part(threadpool *p, int32_t thread) { return thread < atomic_load(&p->active); }

/* Whether a step is open that the thread has not been through yet, or it is not to take part in any. */
static int pool_called(threadpool *p, int32_t thread)
{
    const uint64_t start = atomic_load(&p->start);
    return (!(start & 1) && start != p->thread[thread].ran) || !pool_takes_part(p, thread);
}

static void *pool_worker(void *begin)
{
    threadpool *p = ((pool_start *)begin)->pool;
    const int32_t thread = ((pool_start *)begin)->thread;
    pool_thread *t = &p->thread[thread];
    free(begin);
    pool_float_default();
    for (;;) {
        pool_await(p, thread, pool_takes_part, pool_takes_part, &p->parked);
        pool_await(p, thread, pool_called, pool_called, &p->started);
        const uint64_t start = atomic_load(&p->start);
        if ((start & 1) || start == t->ran)
            continue;
        atomic_store(&t->inside, start);
        if (atomic_load(&p->start) != start) {    /* it is over: nothing was touched */
            atomic_store(&t->inside, 0);
            pool_ring(&p->ended);
            continue;
        }
        if (p->body == NULL)
            return NULL;
        t->epoch = start >> 1;
        t->count = t->holds = 0;
        p->body(p->arg, thread);
        atomic_store(&t->ran, start);
        atomic_store(&t->inside, 0);
        pool_ring(&p->ended);
    }
}

/* Words that fell far behind, of threads that never run: epochs are compared by their distance. */
static void pool_freshen(threadpool *p, uint64_t epoch)
{
    for (int32_t i = 0; i < p->threads; ++i) {
        uint64_t word = atomic_load_explicit(&p->thread[i].taken, memory_order_relaxed);
        if (pool_ahead(epoch, pool_epoch(word)) > POOL_STALE)
            atomic_compare_exchange_strong(&p->thread[i].taken, &word, POOL_WORD(epoch - 1, 0));
        word = atomic_load_explicit(&p->thread[i].done, memory_order_relaxed);
        if (pool_ahead(epoch, pool_epoch(word)) > POOL_STALE)
            atomic_compare_exchange_strong(&p->thread[i].done, &word, POOL_WORD(epoch - 1, 0));
    }
}

/* How many threads take part from the next step on; the others sleep by a bell of their own. */
static void pool_activate(threadpool *p, int32_t threads)
{
    if (atomic_exchange(&p->active, threads) < threads)
        pool_ring(&p->parked);
}

/* Counts, now and then, the CPUs that the caller may run on: more threads than that only take
 * turns, and each turn costs more than it brings. */
static void pool_look(threadpool *p)
{
    const uint64_t now = (uint64_t)pool_now_ns();
    if (p->looked_ns && now - p->looked_ns < POOL_LOOK_NS)
        return;
    p->looked_ns = now;
    unsigned long mask[1024 / sizeof(long)];      /* 8192 CPUs, which glibc's cpu_set_t has not */
    const long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    int32_t cpus = 0;
    for (long i = 0; i < bytes / (long)sizeof(long); ++i)
        cpus += __builtin_popcountl(mask[i]);
    pool_activate(p, cpus > 0 && cpus < p->threads ? cpus : p->threads);
}

/* Opens a step for the workers; what they read of it was written before. */
static uint64_t pool_begin(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg)
{
    pool_thread *t = &p->thread[0];
    if (p->body != body || p->arg != arg) {
        threadpool_quiesce(p);
        p->body = body;
        p->arg = arg;
    }
    t->epoch &= ((uint64_t)1 << (64 - POOL_COUNT_BITS)) - 1;
    t->epoch += t->epoch == 0;                    /* `inside` is 0 outside of every step */
    t->count = t->holds = 0;
    const uint64_t start = t->epoch << 1;
    if (p->threads > 1) {
        pool_freshen(p, t->epoch);
        atomic_store(&p->start, start);
        if (atomic_load(&p->active) > 1)
            pool_ring(&p->started);
    }
    return start;
}

static void pool_end(threadpool *p, uint64_t start)
{
    atomic_store(&p->start, start | 1);
    p->thread[0].epoch++;                         /* no two steps begin with one epoch */
}

static void threadpool_step(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg)
{
    const uint32_t before = pool_float_default();
    if (p->threads > 1)
        pool_look(p);
    const uint64_t start = pool_begin(p, body, arg);
    body(arg, 0);
    pool_end(p, start);
    pool_float_restore(before);
}

static int pool_all_ran(threadpool *p, int32_t thread)
{
    (void)thread;
    const uint64_t start = atomic_load(&p->start);
    for (int32_t i = 1; i < p->threads; ++i)
        if (atomic_load(&p->thread[i].ran) != start)
            return 0;
    return 1;
}

static void threadpool_run(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg)
{
    const uint32_t before = pool_float_default();
    pool_activate(p, p->threads);
    const uint64_t start = pool_begin(p, body, arg);
    body(arg, 0);
    if (p->threads > 1)
        pool_await(p, 0, pool_all_ran, pool_all_ran, &p->ended);
    pool_end(p, start);
    pool_float_restore(before);
}

static int pool_all_out(threadpool *p, int32_t thread)
{
    (void)thread;
    for (int32_t i = 1; i < p->threads; ++i)
        if (atomic_load(&p->thread[i].inside) != 0)
            return 0;
    return 1;
}

static void threadpool_quiesce(threadpool *p)
{
    if (p->threads > 1)
        pool_await(p, 0, pool_all_out, pool_all_out, &p->ended);
}

static uint64_t threadpool_waited_ns(const threadpool *p) { return p->waited_ns; }

static int32_t threadpool_threads(const threadpool *p) { return p->threads; }

static void threadpool_destroy(threadpool *p)
{
    if (p == NULL)
        return;
    pool_activate(p, p->threads);
    pool_begin(p, NULL, NULL);
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
    p->threads = threads;
    p->active = threads;
    p->thread[0].epoch = 1;                       /* words of 0 lie behind every epoch */
    p->start = 1;                                 /* nothing is open */
    /* Workers take no signals that are sent: handlers belong to the caller's threads. Faults of their own
     * they take: blocked, each would end the process before a handler could look at it. */
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t sent, before;
    sigfillset(&sent);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; ++i)
        sigdelset(&sent, faults[i]);
    pthread_sigmask(SIG_SETMASK, &sent, &before);
    int32_t error = ENGINE_OK;
    int32_t started = 1;
    /* Workers look at the pool only once a step is open. */
    for (; started < threads; ++started) {
        pool_start *begin = malloc(sizeof *begin);
        if (begin == NULL) {
            error = ENGINE_E_MEMORY;
            break;
        }
        *begin = (pool_start){p, started};
        if (pthread_create(&p->thread[started].handle, NULL, pool_worker, begin) != 0) {
            free(begin);
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

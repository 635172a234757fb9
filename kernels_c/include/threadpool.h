/* threadpool.h: a persistent pool whose threads share out units of work. The caller is
 * thread 0 and computes too.
 *
 * A step is a run of phases, and a phase a number of units that may be done at once. A phase
 * is over when its last unit is done, whoever did it; nobody waits for a thread that holds no
 * unit. A thread that comes late finds its phase over and walks on; one that comes after the
 * step goes back to sleep. So a thread that the system has taken away costs at most the unit
 * it held. All threads run the same text and count its phases, so that a phase has the same
 * number, its epoch, on each of them; epochs are never used twice.
 *
 * Waiting polls, then pauses, then yields, then sleeps on a futex. With one thread nothing is
 * synchronised. No more threads are woken than the caller has CPUs to run on. */
#ifndef THREADPOOL_H
#define THREADPOOL_H
#include <stdint.h>

typedef struct threadpool threadpool;

/* Most units of a phase. */
#define THREADPOOL_UNITS (1 << 24)

/* threads >= 1. ENGINE_OK, ENGINE_E_ARGUMENT, ENGINE_E_MEMORY or ENGINE_E_THREADS;
 * on failure nothing is left behind and *out is NULL. */
static int32_t threadpool_create(int32_t threads, threadpool **out);

/* body(arg, thread) as a step: returns when the caller's own call has, and with it every phase.
 * Others may still be on their way through the text, or not have begun, and find nothing to do:
 * what they read outside of units must be atomic, or constant as long as the pool lives. The
 * floating-point environment is the default one (round to nearest, denormals kept, no traps)
 * inside, and the caller's own again after. */
static void threadpool_step(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg);

/* body(arg, thread) on every thread, once; returns when all have returned. */
static void threadpool_run(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg);

/* Inside a body: a unit 0 <= u < n_units of the phase at hand that nobody has taken yet, or -1.
 * Taking the next one says that the one before is done. Each thread walks its own contiguous
 * share upwards, then takes what others have left. n_units is the same for all threads; it is
 * read before this is called, so that a late thread's outdated count does no harm. */
static int32_t threadpool_next(threadpool *p, int32_t thread, int32_t n_units);

/* Inside a body, after threadpool_next has returned -1: the phase ends. Returns when all its
 * units are done; what they wrote is then seen by this thread. */
static void threadpool_complete(threadpool *p, int32_t thread);

/* Between steps: returns when no other thread is inside a body any more. */
static void threadpool_quiesce(threadpool *p);

/* Nanoseconds that the caller has waited for others inside bodies, since the pool was made. */
static uint64_t threadpool_waited_ns(const threadpool *p);

static int32_t threadpool_threads(const threadpool *p);
static void threadpool_destroy(threadpool *p);   /* NULL is allowed */
#endif

/* threadpool.h: a persistent pool. The caller is thread 0 and computes too.
 *
 * One thing synchronises: every thread but 0 raises its own padded arrival word,
 * thread 0 sees them all, rewinds the work shares and raises the release word.
 * Waiting polls, then pauses, then sleeps on a futex after about 30 us, so a
 * descheduled virtual core costs no one else its time slice. With one thread
 * nothing is synchronised. */
#ifndef THREADPOOL_H
#define THREADPOOL_H
#include <stdint.h>

typedef struct threadpool threadpool;

/* threads >= 1. ENGINE_OK, ENGINE_E_ARGUMENT, ENGINE_E_MEMORY or ENGINE_E_THREADS;
 * on failure nothing is left behind and *out is NULL. */
static int32_t threadpool_create(int32_t threads, threadpool **out);

/* body(arg, thread) on every thread; returns when all have returned. The
 * floating-point environment is the default one (round to nearest, denormals
 * kept, no traps) inside, and the caller's own again after. */
static void threadpool_run(threadpool *p, void (*body)(void *arg, int32_t thread), void *arg);

/* Inside a body: all threads meet; also rewinds the work shares. */
static void threadpool_barrier(threadpool *p, int32_t thread);

/* Inside a body: the next unit 0 <= u < n_units that nobody has taken since the
 * last barrier, or -1. Each thread walks its own contiguous share upwards, then
 * takes what others have left. All threads pass the same n_units. */
static int32_t threadpool_next(threadpool *p, int32_t thread, int32_t n_units);

static int32_t threadpool_threads(const threadpool *p);
static void threadpool_destroy(threadpool *p);   /* NULL is allowed */
#endif

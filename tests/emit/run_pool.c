/* What the thread pool does with time: it gives away what a held-up thread leaves, and sleeps while it waits. */
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>

#include "engine_abi.h"
#include "threadpool.h"
#include "threadpool.c"

#define UNITS 64

typedef struct {
    threadpool *pool;
    int32_t wait_ms;
    _Atomic int32_t done;
    int32_t by[UNITS];
} work;

/* Thread 1 stands still in its first unit until the others have done all that is left. */
static void held_up(void *arg, int32_t thread)
{
    work *w = arg;
    for (int32_t unit; (unit = threadpool_next(w->pool, thread, UNITS)) >= 0;) {
        w->by[unit] = thread;
        while (thread == 1 && w->done < UNITS - 1)
            usleep(100);
        w->done++;
    }
    threadpool_barrier(w->pool, thread);
}

/* Thread 0 comes late to the barrier. */
static void late(void *arg, int32_t thread)
{
    work *w = arg;
    if (thread == 0)
        usleep((unsigned)w->wait_ms * 1000);
    threadpool_barrier(w->pool, thread);
}

static double cpu_ms(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return 1e3 * (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
         + 1e-3 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

int main(void)
{
    static work w = {.wait_ms = 200};
    if (threadpool_create(2, &w.pool) != ENGINE_OK)
        return 3;
    threadpool_run(w.pool, held_up, &w);
    int32_t taken[2] = {0, 0};
    for (int32_t unit = 0; unit < UNITS; unit++)
        taken[w.by[unit]]++;
    threadpool_destroy(w.pool);

    if (threadpool_create(8, &w.pool) != ENGINE_OK)
        return 3;
    double before = cpu_ms();
    threadpool_run(w.pool, late, &w);
    const double inside = cpu_ms() - before;
    before = cpu_ms();
    usleep((unsigned)w.wait_ms * 1000);
    const double between = cpu_ms() - before;
    threadpool_destroy(w.pool);
    printf("%d %d %.3f %.3f\n", taken[0], taken[1], inside, between);
    return 0;
}

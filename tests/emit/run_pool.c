/* The pool with a thread held up at every place where it can be: the others do all that is left and
 * the step ends; let go after later steps, of other sizes, it takes nothing of them. And what the
 * pool does with time: threads that wait sleep. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void hook(int32_t thread, int place);
#define POOL_HOOK(thread, place) hook(thread, place)
#include "engine_abi.h"
#include "threadpool.h"
#include "threadpool.c"

#define PHASES 3
#define MOST 64

typedef struct {
    threadpool *pool;
    _Atomic int32_t units;
    _Atomic int32_t taken[PHASES][MOST];
    _Atomic int32_t wrong;
} work;

/* What thread 1 is held by: 0 nothing, 1 waits for it to come to `place`, 2 it is held. */
static _Atomic int held;
static int place, stops;

static void hook(int32_t thread, int here)
{
    int expected = 1;
    if (thread == 1 && here == place && atomic_compare_exchange_strong(&held, &expected, 2)) {
        stops++;
        while (held == 2)
            usleep(100);
    }
}

static void body(void *arg, int32_t thread)
{
    work *w = arg;
    for (int32_t phase = 0; phase < PHASES; phase++) {
        for (int32_t unit; (unit = threadpool_next(w->pool, thread, w->units)) >= 0;) {
            atomic_fetch_add(&w->taken[phase][unit], 1);
            /* Thread 0 leaves its own for thread 1 to come to; held with a unit, it delays only the end. */
            if (thread == 0)
                for (int32_t i = 0; i < 1000 && held == 1; i++)
                    usleep(100);
            if (thread == 0 && place == POOL_HOLDING && unit == w->units - 2)
                held = 0;
        }
        if (place == POOL_HOLDING && thread == 0 && held == 2)
            held = 0;
        threadpool_complete(w->pool, thread);
    }
}

static int step(work *w, int32_t units)
{
    w->units = units;
    for (int32_t phase = 0; phase < PHASES; phase++)
        for (int32_t unit = 0; unit < MOST; unit++)
            w->taken[phase][unit] = 0;
    threadpool_step(w->pool, body, w);
    for (int32_t phase = 0; phase < PHASES; phase++)
        for (int32_t unit = 0; unit < MOST; unit++)
            if (w->taken[phase][unit] != (unit < units))
                return 0;
    return 1;
}

static int holding(int where)
{
    static work w;
    if (threadpool_create(2, &w.pool) != ENGINE_OK)
        return 0;
    int good = 1;
    place = where;
    stops = 0;
    for (int32_t again = 0; again < 20; again++) {
        held = 1;
        good &= step(&w, 20);                     /* thread 1 comes to the place, and is held there */
        for (int32_t units = 1; units < 30; units += 7)
            good &= step(&w, units);              /* what it would take now belongs to others */
        held = 0;
        good &= step(&w, MOST);
    }
    threadpool_destroy(w.pool);
    return good && stops == 20;
}

/* Thread 0 is late with its only unit. */
static void late(void *arg, int32_t thread)
{
    threadpool *pool = arg;
    while (threadpool_next(pool, thread, 1) >= 0)
        usleep(200000);
    threadpool_complete(pool, thread);
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
    const int good[3] = {holding(POOL_TAKING), holding(POOL_HOLDING), holding(POOL_BETWEEN)};
    held = 0;
    threadpool *pool;
    if (threadpool_create(8, &pool) != ENGINE_OK)
        return 3;
    double before = cpu_ms();
    threadpool_run(pool, late, pool);
    const double inside = cpu_ms() - before;
    before = cpu_ms();
    usleep(200000);
    const double between = cpu_ms() - before;
    threadpool_destroy(pool);
    printf("%d %d %d %.3f %.3f\n", good[0], good[1], good[2], inside, between);
    return 0;
}

/* The thread pool alone, for ThreadSanitizer: every unit of a phase is taken once, each phase reads
 * what other threads wrote in the one before, and the caller reads and writes between steps. */
#include <stdint.h>
#include <stdio.h>

#include "engine_abi.h"
#include "threadpool.h"
#include "threadpool.c"

#define UNITS 192

typedef struct {
    threadpool *pool;
    int32_t taken[UNITS];
    int64_t here[UNITS], there[UNITS];
} work;

static void body(void *arg, int32_t thread)
{
    work *w = arg;
    for (int32_t round = 0; round < 3; round++) {
        for (int32_t unit; (unit = threadpool_next(w->pool, thread, UNITS)) >= 0;) {
            w->taken[unit]++;
            w->here[unit] = w->there[unit] + 1;
        }
        threadpool_complete(w->pool, thread);
        for (int32_t unit; (unit = threadpool_next(w->pool, thread, UNITS)) >= 0;)
            w->there[unit] = w->here[UNITS - 1 - unit];
        threadpool_complete(w->pool, thread);
    }
}

int main(void)
{
    static work w;
    for (int32_t threads = 1; threads <= 5; threads++)
        for (int32_t again = 0; again < 5; again++) {
            memset(&w, 0, sizeof w);
            if (threadpool_create(threads, &w.pool) != ENGINE_OK)
                return 3;
            const int32_t runs = 20;
            for (int32_t run = 0; run < runs; run++) {
                (run % 5 == 4 ? threadpool_run : threadpool_step)(w.pool, body, &w);
                if (run % 7 == 0)
                    usleep(200);   /* long enough for the workers to fall asleep */
            }
            for (int32_t unit = 0; unit < UNITS; unit++)
                if (w.taken[unit] != 3 * runs || w.there[unit] != 3 * runs)
                    return 4;
            threadpool_destroy(w.pool);
        }
    puts("done");
    return 0;
}

/* bandwidth.c: how fast memory can be read here and now, the limit of decode.
 *
 * What is read is one anonymous buffer in 2 MB pages, far larger than any cache, filled by the
 * threads that read it. A pass reads all of it with the engine's own pool: every thread walks its
 * contiguous share in units, then takes what others have left, as a matmul does. The loops are
 * those of read_loops.c. Each pass checks the sum of all words against that of the filling. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "read_loops.h"

#pragma GCC visibility push(default)
/* cdef-begin */
typedef struct bandwidth_probe bandwidth_probe;

/* Maps `bytes`, rounded up to whole units of 4 MB, at least one a thread, and fills them; NULL if
 * the memory or the threads cannot be had. One thread at a time may use a probe. */
bandwidth_probe *bandwidth_open(int32_t threads, uint64_t bytes);
void bandwidth_close(bandwidth_probe *p); /* NULL is allowed */
uint64_t bandwidth_bytes(const bandwidth_probe *p);

/* The loops there are, and what one does; NULL where there is none. */
int32_t bandwidth_loops(void);
const char *bandwidth_loop(int32_t loop);

/* Bytes per second of one pass; 0 if there is no such loop, -1 if the sum was wrong. */
double bandwidth_pass(bandwidth_probe *p, int32_t loop);
/* cdef-end */
#pragma GCC visibility pop

#include "engine_abi.h"
#include "threadpool.h"
#include "threadpool.c"

#define PAGE_BYTES (2 << 20)
#define WORDS (READ_UNIT_BYTES / 8)

struct bandwidth_probe {
    threadpool *pool;
    uint8_t *mapped, *units; /* units: from the first whole page of mapped on */
    uint64_t mapped_bytes, bytes;
    int32_t n_units, loop;
    uint64_t expected;
    _Atomic uint64_t sum;
};

static void fill_units(void *arg, int32_t thread)
{
    bandwidth_probe *p = arg;
    uint64_t sum = 0;
    for (int32_t unit; (unit = threadpool_next(p->pool, thread, p->n_units)) >= 0;) {
        uint64_t *words = (uint64_t *)(p->units + (int64_t)unit * READ_UNIT_BYTES);
        for (int64_t i = 0; i < WORDS; ++i) {
            /* No two pages alike: a hypervisor could give equal ones the same place. */
            uint64_t word = ((uint64_t)unit * WORDS + (uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
            words[i] = word;
            sum += word;
        }
    }
    p->sum += sum;
}

static void read_units(void *arg, int32_t thread)
{
    bandwidth_probe *p = arg;
    uint64_t sum = 0;
    for (int32_t unit; (unit = threadpool_next(p->pool, thread, p->n_units)) >= 0;)
        sum += read_loops[p->loop].read(p->units + (int64_t)unit * READ_UNIT_BYTES);
    p->sum += sum;
}

bandwidth_probe *bandwidth_open(int32_t threads, uint64_t bytes)
{
    if (threads < 1 || threads > POOL_MAX_THREADS || bytes > (uint64_t)INT32_MAX * PAGE_BYTES)
        return NULL;
    bandwidth_probe *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    const uint64_t n_units = (bytes + READ_UNIT_BYTES - 1) / READ_UNIT_BYTES;
    p->n_units = n_units < (uint64_t)threads ? threads : (int32_t)n_units;
    p->bytes = (uint64_t)p->n_units * READ_UNIT_BYTES;
    p->mapped_bytes = p->bytes + 2 * PAGE_BYTES; /* one to begin with a page, one for the prefetches */
    p->mapped = mmap(NULL, p->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->mapped == MAP_FAILED) {
        free(p);
        return NULL;
    }
    madvise(p->mapped, p->mapped_bytes, MADV_HUGEPAGE);
    p->units = (uint8_t *)(((uintptr_t)p->mapped + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
    if (threadpool_create(threads, &p->pool) != ENGINE_OK) {
        bandwidth_close(p);
        return NULL;
    }
    threadpool_run(p->pool, fill_units, p);
    p->expected = p->sum;
    return p;
}

void bandwidth_close(bandwidth_probe *p)
{
    if (p == NULL)
        return;
    threadpool_destroy(p->pool);
    munmap(p->mapped, p->mapped_bytes);
    free(p);
}

uint64_t bandwidth_bytes(const bandwidth_probe *p) { return p->bytes; }

int32_t bandwidth_loops(void) { return n_read_loops; }

const char *bandwidth_loop(int32_t loop)
{
    return loop >= 0 && loop < n_read_loops ? read_loops[loop].name : NULL;
}

double bandwidth_pass(bandwidth_probe *p, int32_t loop)
{
    if (loop < 0 || loop >= n_read_loops)
        return 0;
    p->loop = loop;
    p->sum = 0;
    const int64_t begin = pool_now_ns();
    threadpool_run(p->pool, read_units, p);
    const int64_t ns = pool_now_ns() - begin;
    return p->sum == p->expected ? (double)p->bytes * 1e9 / (double)(ns > 0 ? ns : 1) : -1;
}

/* engine.c: the translation unit of a bundle: memory, the step, the C ABI.
 *
 * Everything below is included, so that the compiler folds the constants of
 * config.h and of the calls in forward.c into the kernels. */
#define _GNU_SOURCE
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#pragma GCC visibility push(default)
#include "engine_abi.h"
#pragma GCC visibility pop
#include "config.h"
#include "packed.h"
#include "activations.h"
#include "threadpool.h"
#include "kernels.h"
#include "rotary.h"
#include "step.h"
#include "forward.c"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Anonymous memory, in 2 MB pages where the kernel grants them; NULL on failure. */
static uint8_t *map_memory(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, bytes ? bytes : 1, MADV_HUGEPAGE);
    return memory;
}

/* Faults memory in, so that no step does. Advice: before Linux 5.14 the first steps fault it in. */
static void populate(void *memory, uint64_t bytes)
{
    madvise(memory, bytes, MADV_POPULATE_WRITE);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void engine_describe(engine_limits *out)
{
    *out = (engine_limits){
        .abi_version = ENGINE_ABI_VERSION,
        .n_vocab = N_VOCAB,
        .n_layers = N_LAYERS,
        .context = CONTEXT,
        .slots = SLOTS,
        .step_tokens = STEP_TOKENS,
        .n_ops = N_OPS,
        .page_groups = PAGE_GROUPS,
        .page_blocks = PAGE_BLOCKS,
        .weights_bytes = WEIGHTS_BYTES,
        .arena_bytes = ARENA_BYTES + ROTARY_BYTES,
        .kv_bytes = KV_BYTES,
    };
}

int32_t engine_describe_pages(int32_t i, engine_page_group *out)
{
    if (i < 0 || i >= PAGE_GROUPS)
        return ENGINE_E_ARGUMENT;
    *out = PAGES[i].group;
    return ENGINE_OK;
}

void *engine_page(engine *e, int32_t group, int32_t page)
{
    if (group < 0 || group >= PAGE_GROUPS || page < 0 || page >= PAGES[group].group.pages)
        return NULL;
    return e->kv + PAGES[group].at + (uint64_t)page * PAGES[group].group.page_bytes;
}

int32_t engine_resume(engine *e, int32_t slot, int32_t length)
{
    if (slot < 0 || slot >= SLOTS || length < 0 || length > CONTEXT)
        return ENGINE_E_ARGUMENT;
    e->length[slot] = length;
    return ENGINE_OK;
}

const char *engine_op_name(int32_t i)
{
    return i >= 0 && i < N_OPS ? OP_NAMES[i] : NULL;
}

int32_t engine_open(const void *weights, uint64_t weights_bytes, int32_t threads, engine **out)
{
    if (weights == NULL || out == NULL || weights_bytes < WEIGHTS_BYTES || threads < 1 || threads > 1024)
        return ENGINE_E_ARGUMENT;
#ifdef KERNELS_OBSTACLE
    if (KERNELS_OBSTACLE() != NULL)
        return ENGINE_E_MACHINE;
#endif
    engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return ENGINE_E_MEMORY;
    e->weights = weights;
    e->threads = threads;
    e->arena = map_memory(ARENA_BYTES);
    e->kv = map_memory(KV_BYTES);
    e->rotary = (float *)map_memory(ROTARY_BYTES);
    e->scratch = map_memory((uint64_t)threads * thread_scratch());
    if (e->arena == NULL || e->kv == NULL || e->rotary == NULL || e->scratch == NULL) {
        engine_close(e);
        return ENGINE_E_MEMORY;
    }
    /* Every step uses these. Pages of the cache are left to the positions that come: most slots stay short. */
    populate(e->arena, ARENA_BYTES);
    populate(e->scratch, (uint64_t)threads * thread_scratch());
    build_rotary(e->rotary);
    const int32_t status = threadpool_create(threads, &e->pool);
    if (status != ENGINE_OK) {
        engine_close(e);
        return status;
    }
    *out = e;
    return ENGINE_OK;
}

void engine_close(engine *e)
{
    if (e == NULL)
        return;
    if (e->pool != NULL)
        threadpool_destroy(e->pool);
    if (e->arena != NULL)
        munmap(e->arena, ARENA_BYTES ? ARENA_BYTES : 1);
    if (e->kv != NULL)
        munmap(e->kv, KV_BYTES ? KV_BYTES : 1);
    if (e->rotary != NULL)
        munmap(e->rotary, ROTARY_BYTES ? ROTARY_BYTES : 1);
    if (e->scratch != NULL)
        munmap(e->scratch, (uint64_t)e->threads * thread_scratch());
    free(e);
}

/* Whether the table names a page for every block that tokens of a run read or write. */
static int pages_held(const int32_t *pages, sequence q)
{
    const int32_t last = (q.position + q.count - 1) / ENGINE_PAGE;
    for (int32_t g = 0; g < PAGE_GROUPS; g++) {
        const engine_page_group group = PAGES[g].group;
        const int32_t *held = pages + ((int64_t)q.slot * PAGE_GROUPS + g) * PAGE_BLOCKS;
        const int32_t oldest = group.window > 0 ? q.position - group.window + 1 : 0;
        for (int32_t block = oldest > 0 ? oldest / ENGINE_PAGE : 0; block <= last; block++)
            if (held[block] < 0 || held[block] >= group.pages)
                return 0;
    }
    return 1;
}

/* The step as runs of one slot's consecutive positions; ENGINE_E_ARGUMENT where the
 * caller breaks engine_forward's contract. */
static int32_t plan_step(engine *e, int32_t n, const int32_t *slot, const int32_t *position,
                         const int32_t *token, const uint8_t *want, const int32_t *pages)
{
    if (n < 1 || n > STEP_TOKENS)
        return ENGINE_E_ARGUMENT;
    uint8_t seen[SLOTS] = {0};
    int32_t n_want = 0, n_tiles = 0;
    e->n = n;
    e->n_sequences = 0;
    for (int32_t i = 0; i < n; i++) {
        if (slot[i] < 0 || slot[i] >= SLOTS || position[i] < 0 || position[i] >= CONTEXT
            || token[i] < 0 || token[i] >= N_VOCAB)
            return ENGINE_E_ARGUMENT;
        if (want[i])
            e->wanted[n_want++] = i;
        if (i > 0 && slot[i] == slot[i - 1]) {
            if (position[i] != position[i - 1] + 1)
                return ENGINE_E_ARGUMENT;
            e->sequences[e->n_sequences - 1].count++;
            continue;
        }
        if (seen[slot[i]]++ || position[i] > e->length[slot[i]])
            return ENGINE_E_ARGUMENT;
        /* A ring no longer holds the window of a position too far behind the newest. */
        if (position[i] > 0 && position[i] + KV_SLACK < e->length[slot[i]])
            return ENGINE_E_ARGUMENT;
        e->sequences[e->n_sequences++] = (sequence){.slot = slot[i], .first = i, .count = 1, .position = position[i]};
    }
    for (int32_t s = 0; s < e->n_sequences; s++)
        if (!pages_held(pages, e->sequences[s]))
            return ENGINE_E_ARGUMENT;
    e->pages = pages;
    for (int32_t s = 0; s < e->n_sequences; s++) {
        const sequence q = e->sequences[s];
        for (int32_t first = 0; first < q.count; first += QUERY_TILE)
            e->tiles[n_tiles++] = (sequence){
                .slot = q.slot,
                .first = q.first + first,
                .count = q.count - first < QUERY_TILE ? q.count - first : QUERY_TILE,
                .position = q.position + first,
            };
        e->length[q.slot] = q.position + q.count;
    }
    e->n_want = n_want;
    e->n_tiles = n_tiles;
    return ENGINE_OK;
}

/* Whether every logit is finite: an exponent of all ones is an infinity or a NaN. */
static int logits_finite(const float *logits, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

int32_t engine_forward(engine *e, int32_t n, const int32_t *slot, const int32_t *position,
                              const int32_t *token, const uint8_t *want, const int32_t *pages, float *logits)
{
    const uint64_t started = now_ns();
    const int32_t status = plan_step(e, n, slot, position, token, want, pages);
    if (status != ENGINE_OK)
        return status;
    memcpy(e->slot, slot, (size_t)n * sizeof *slot);
    memcpy(e->token, token, (size_t)n * sizeof *token);
    memcpy(e->position, position, (size_t)n * sizeof *position);
    e->logits = logits;
    threadpool_step(e->pool, forward, e);
    const int finite = logits_finite(logits, (int64_t)e->n_want * N_VOCAB);
    e->ns += now_ns() - started;
    return finite ? ENGINE_OK : ENGINE_E_NUMERIC;
}

int32_t engine_locate_fault(engine *e, engine_fault *out)
{
    /* One thread runs the step again: an op's values are then whole when it has returned. */
    threadpool_quiesce(e->pool);
    threadpool *pool = e->pool, *alone;
    const int32_t threads = e->threads;
    const int32_t status = threadpool_create(1, &alone);
    if (status != ENGINE_OK)
        return status;
    e->fault = (engine_fault){.op = -1, .layer = -1, .token_index = -1};
    e->pool = alone;
    e->threads = 1;
    e->checking = 1;
    threadpool_step(alone, forward, e);
    e->checking = 0;
    e->threads = threads;
    e->pool = pool;
    threadpool_destroy(alone);
    *out = e->fault;
    return ENGINE_OK;
}

void engine_op_times(const engine *e, uint64_t *ns)
{
    memcpy(ns, e->op_ns, sizeof e->op_ns);
}

uint64_t engine_forward_ns(const engine *e)
{
    return e->ns;
}

uint64_t engine_wait_ns(const engine *e)
{
    return threadpool_waited_ns(e->pool);
}

#include "sampling.c"
#include "guard.c"

/* A shared object with the engine's ABI and arithmetic that a test can foresee.
 *
 * Each slot keeps the tokens it has been given ("KV cache"). The logits of a
 * position follow from a hash of all tokens up to it, so that they depend on the
 * history and on nothing else, as a model's do. Compiled with SCRIPT defined, the
 * next token after position p is script[p + 1 - prompt] while there is one.
 *
 * Weights: int32 magic 0x454e4746, which engine_open checks.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#pragma GCC visibility push(default)
#include "engine_abi.h"
#pragma GCC visibility pop

#ifndef N_VOCAB
#define N_VOCAB 258
#endif
#ifndef CONTEXT
#define CONTEXT 128
#endif
#ifndef SLOTS
#define SLOTS 4
#endif
#ifndef STEP_TOKENS
#define STEP_TOKENS 32
#endif
#ifndef KV_BYTES
#define KV_BYTES sizeof(int32_t) * SLOTS * CONTEXT
#endif
#ifndef WEIGHTS_BYTES
#define WEIGHTS_BYTES 4096
#endif
#ifndef OPEN_STATUS
#define OPEN_STATUS ENGINE_OK
#endif
#ifndef STEP_US
#define STEP_US 0
#endif
/* A sequence that begins with this token has NaN logits. */
#define POISON 13

#define BLOCKS ((CONTEXT + ENGINE_PAGE - 1) / ENGINE_PAGE)
#ifndef PAGES
#define PAGES (SLOTS * BLOCKS)
#endif

struct engine {
    const uint8_t *weights;
    int32_t tokens[PAGES][ENGINE_PAGE];   /* the pages: what a position holds is its token */
    int32_t length[SLOTS];
    uint64_t forward_ns;
    engine_fault fault;
};

void engine_describe(engine_limits *out) {
    *out = (engine_limits){ENGINE_ABI_VERSION, N_VOCAB, 2, CONTEXT, SLOTS, STEP_TOKENS, 2, 1, BLOCKS,
                           WEIGHTS_BYTES, 1 << 16, (uint64_t)(KV_BYTES)};
}

int32_t engine_describe_pages(int32_t i, engine_page_group *out) {
    if (i != 0) return ENGINE_E_ARGUMENT;
    *out = (engine_page_group){0, BLOCKS, PAGES, sizeof(int32_t) * ENGINE_PAGE};
    return ENGINE_OK;
}

void *engine_page(engine *e, int32_t group, int32_t page) {
    return group == 0 && page >= 0 && page < PAGES ? e->tokens[page] : NULL;
}

int32_t engine_resume(engine *e, int32_t slot, int32_t length) {
    if (slot < 0 || slot >= SLOTS || length < 0 || length > CONTEXT) return ENGINE_E_ARGUMENT;
    e->length[slot] = length;
    return ENGINE_OK;
}

const char *engine_op_name(int32_t i) { return i == 0 ? "matmul" : i == 1 ? "attention" : NULL; }

int32_t engine_open(const void *weights, uint64_t weights_bytes, int32_t threads, engine **out) {
    if (weights_bytes != WEIGHTS_BYTES || *(const int32_t *)weights != 0x454e4746 || threads < 1)
        return ENGINE_E_ARGUMENT;
    if (OPEN_STATUS != ENGINE_OK) return OPEN_STATUS;
    if (threads > 64) return ENGINE_E_THREADS;
    engine *e = calloc(1, sizeof *e);
    if (!e) return ENGINE_E_MEMORY;
    e->weights = weights;
    *out = e;
    return ENGINE_OK;
}

static uint32_t mix(uint32_t h, uint32_t x) {
    h ^= x + 0x9e3779b9u + (h << 6) + (h >> 2);
    h *= 0x85ebca6bu;
    return h ^ (h >> 13);
}

int32_t engine_forward(engine *e, int32_t n, const int32_t *slot, const int32_t *position,
                       const int32_t *token, const uint8_t *want, const int32_t *pages, float *logits) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (n < 1 || n > STEP_TOKENS) return ENGINE_E_ARGUMENT;
    int32_t status = ENGINE_OK;
    if (STEP_US) usleep(STEP_US);
    for (int32_t i = 0; i < n; i++) {
        int32_t s = slot[i], p = position[i];
        if (s < 0 || s >= SLOTS || p < 0 || p >= CONTEXT || p > e->length[s] || token[i] < 0 ||
            token[i] >= N_VOCAB)
            return ENGINE_E_ARGUMENT;
        const int32_t *held = pages + s * BLOCKS;
#define HISTORY(j) e->tokens[held[(j) / ENGINE_PAGE]][(j) % ENGINE_PAGE]
        for (int32_t j = 0; j <= p / ENGINE_PAGE; j++)
            if (held[j] < 0 || held[j] >= PAGES) return ENGINE_E_ARGUMENT;
        HISTORY(p) = token[i];
        e->length[s] = p + 1;
        if (!want[i]) continue;
        uint32_t h = e->weights[4];
        int poisoned = HISTORY(0) == POISON;
        for (int32_t j = 0; j <= p; j++) h = mix(h, (uint32_t)HISTORY(j));
        for (int32_t v = 0; v < N_VOCAB; v++)
            logits[v] = (float)(mix(h, (uint32_t)v) & 0xffff) / 8192.0f - 4.0f;
#ifdef SCRIPT
        /* The prompt's first token says how long the prompt is. */
        static const int32_t script[] = {SCRIPT};
        int32_t k = p + 1 - HISTORY(0);
        if (k >= 0 && k < (int32_t)(sizeof script / sizeof *script)) logits[script[k]] = 100.0f;
#endif
        if (poisoned) {
            logits[3] = NAN;
            e->fault = (engine_fault){1, 0, i};
            status = ENGINE_E_NUMERIC;
        }
        logits += N_VOCAB;
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    e->forward_ns += (uint64_t)((b.tv_sec - a.tv_sec) * 1000000000LL + (b.tv_nsec - a.tv_nsec));
    return status;
}

int32_t engine_locate_fault(engine *e, engine_fault *out) {
    *out = e->fault;
    return ENGINE_OK;
}

void engine_op_times(const engine *e, uint64_t *ns) {
    ns[0] = e->forward_ns;
    ns[1] = 0;
}

uint64_t engine_forward_ns(const engine *e) { return e->forward_ns; }

uint64_t engine_wait_ns(const engine *e) { return e->forward_ns / 8; }

void engine_close(engine *e) { free(e); }

/* Greedy, or with a temperature the id (seed + position) mod N_VOCAB. */
int32_t engine_sample(const float *logits, int32_t n_vocab, const engine_sampling *params,
                      const int32_t *history, int32_t n_history, const int32_t *bias_token,
                      const float *bias, int32_t n_bias, const uint32_t *allowed,
                      const uint32_t *breakers, uint64_t position, float *scratch,
                      engine_choice *out) {
    (void)history, (void)n_history, (void)breakers;
    memcpy(scratch, logits, sizeof(float) * (size_t)n_vocab);
    for (int32_t i = 0; i < n_bias; i++) scratch[bias_token[i]] += bias[i];
    for (int32_t v = 0; allowed && v < n_vocab; v++)
        if (!(allowed[v / 32] >> (v % 32) & 1)) scratch[v] = -INFINITY;
    int32_t best = 0;
    for (int32_t v = 1; v < n_vocab; v++)
        if (scratch[v] > scratch[best]) best = v;
    if (params->temperature > 0) best = (int32_t)((params->seed + position) % (uint64_t)n_vocab);
    double sum = 0;
    for (int32_t v = 0; v < n_vocab; v++) sum += exp((double)logits[v]);
    *out = (engine_choice){best, (float)((double)logits[best] - log(sum))};
    return ENGINE_OK;
}

int32_t engine_top_logprobs(const float *logits, int32_t n_vocab, int32_t n, int32_t *tokens,
                            float *logprobs) {
    double sum = 0;
    for (int32_t v = 0; v < n_vocab; v++) sum += exp((double)logits[v]);
    for (int32_t i = 0; i < n; i++) {
        int32_t best = -1;
        for (int32_t v = 0; v < n_vocab; v++) {
            int taken = 0;
            for (int32_t j = 0; j < i; j++) taken |= tokens[j] == v;
            if (!taken && (best < 0 || logits[v] > logits[best])) best = v;
        }
        tokens[i] = best;
        logprobs[i] = (float)((double)logits[best] - log(sum));
    }
    return ENGINE_OK;
}

#include "guard.c"

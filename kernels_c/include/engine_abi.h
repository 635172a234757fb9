/* engine_abi.h: the C ABI of a bundle's shared object.
 *
 * Every backend's shared object exports exactly these functions, so the run
 * loop cannot tell one backend from another. The text between the markers is
 * what the runtime hands to cffi's cdef() and what the emitted C includes: one
 * text, so the two sides cannot drift apart.
 *
 * All functions return 0 (ENGINE_OK) or one of the ENGINE_E_* codes unless
 * they say otherwise. One `engine` is driven by one caller at a time.
 */
#ifndef ENGINE_ABI_H
#define ENGINE_ABI_H
#include <stdint.h>

/* cdef-begin */
#define ENGINE_ABI_VERSION 5
#define ENGINE_OK 0
#define ENGINE_E_ARGUMENT 1  /* a count, slot, position or token out of range */
#define ENGINE_E_MEMORY 2    /* the arena or the KV cache could not be mapped */
#define ENGINE_E_THREADS 3   /* a worker thread could not be started */
#define ENGINE_E_NUMERIC 4   /* a logit is NaN or infinite; see engine_fault */
#define ENGINE_E_MACHINE 5   /* engine_open: the kernels do not work on this machine */

#define ENGINE_PAGE 256       /* positions of a page of the KV cache */

typedef struct engine engine;

/* What the object was compiled for. Constants; readable before engine_open. */
typedef struct {
    int32_t abi_version;
    int32_t n_vocab;          /* length of a row of logits */
    int32_t n_layers;
    int32_t context;          /* KV tokens a slot may hold */
    int32_t slots;            /* sequences resident at once */
    int32_t step_tokens;      /* most tokens one engine_forward may take */
    int32_t n_ops;            /* length of engine_op_times' array */
    int32_t page_groups;      /* groups of layers that have pages of their own */
    int32_t page_blocks;      /* blocks of ENGINE_PAGE positions that a slot's table names pages for */
    uint64_t weights_bytes;   /* exact size of weights.bin */
    uint64_t arena_bytes;     /* activations, static */
    uint64_t kv_bytes;        /* KV cache: all pages of all groups */
} engine_limits;

/* Layers whose pages are taken and given back together. */
typedef struct {
    int32_t window;           /* positions that they look back; 0: all */
    int32_t held;             /* pages that one slot needs at a time, at most */
    int32_t pages;            /* pages there are: numbers 0 .. pages - 1 */
    uint64_t page_bytes;      /* ENGINE_PAGE positions of all these layers */
} engine_page_group;

/* Where the first non-finite value of a failed step arose. */
typedef struct {
    int32_t op;               /* index as in engine_op_name, -1 unknown */
    int32_t layer;            /* -1: outside the layers */
    int32_t token_index;      /* index in the step */
} engine_fault;

void engine_describe(engine_limits *out);

/* Group 0 <= i < page_groups; ENGINE_E_ARGUMENT past the end. */
int32_t engine_describe_pages(int32_t i, engine_page_group *out);

/* Name of op i (0 <= i < n_ops), a static string: its kind and, after a space, which of that
 * kind it is, if they are told apart ("linear attn_output"); NULL past the end. */
const char *engine_op_name(int32_t i);

/* weights: weights.bin in memory (page aligned, read-only is enough, stays
 * mapped until engine_close). threads >= 1: the caller is thread 0. */
int32_t engine_open(const void *weights, uint64_t weights_bytes, int32_t threads, engine **out);

/* The memory of a page, page_bytes of its group; NULL where there is none. Read and written between
 * steps only: what a page holds follows from the tokens up to its end, so a copy of it serves any
 * slot whose tokens are the same. */
void *engine_page(engine *e, int32_t group, int32_t page);

/* Says that the pages of `slot` hold its positions 0 .. length - 1 already. */
int32_t engine_resume(engine *e, int32_t slot, int32_t length);

/* One step. Tokens of one sequence stand together, at consecutive ascending
 * positions; different slots in any order; 1 <= n <= step_tokens. Position p of
 * a slot may be written when 0..p-1 of it have been. pages[slots][page_groups][page_blocks]: the page
 * of each block of each slot's positions; those that the step reads or writes are there, and
 * those that it writes are no other slot's. want[i] != 0 asks for the
 * logits of token i; rows come out in the order of i:
 * logits: float[count(want)][n_vocab]. */
int32_t engine_forward(engine *e, int32_t n,
                       const int32_t *slot, const int32_t *position, const int32_t *token,
                       const uint8_t *want, const int32_t *pages, float *logits);

/* After ENGINE_E_NUMERIC: runs the same step again, checking every op. */
int32_t engine_locate_fault(engine *e, engine_fault *out);

/* Nanoseconds spent in each op since engine_open, ns[n_ops], on the caller's thread, its
 * waiting for others as ops of their own ("barrier", then the op it waited after); all zero
 * unless the plan asked for observability.op_timing. */
void engine_op_times(const engine *e, uint64_t *ns);

/* Nanoseconds spent inside engine_forward since engine_open. */
uint64_t engine_forward_ns(const engine *e);

/* Of those, how many the caller's thread waited for other threads of the engine. */
uint64_t engine_wait_ns(const engine *e);

void engine_close(engine *e);

/* ---- weights that are mapped from a file -------------------------------- */
/* Watches mapped memory, until engine_unguard: where a page of it cannot be read any more (its file was
 * truncated, its disk fails), zeros take the place of all of it, instead of SIGBUS, and engine_guard_lost
 * becomes true for it. What was computed since the last look is then worth nothing. One handler serves
 * the process, that of the object whose engine_guard was called: it must stay loaded. Not for several
 * threads at once. Returns a place for the other two, -1 if there is none left. */
int32_t engine_guard(const void *memory, uint64_t bytes);
int32_t engine_guard_lost(int32_t place); /* 1 or 0 */
void engine_unguard(int32_t place);

/* ---- sampling ---------------------------------------------------------- */
typedef struct {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float typical_p;          /* 1: off */
    float repetition_penalty; /* 1: off */
    float presence_penalty;   /* 0: off */
    float frequency_penalty;  /* 0: off */
    float xtc_probability;    /* 0: off */
    float xtc_threshold;
    float dry_multiplier;     /* 0: off */
    float dry_base;
    int32_t dry_allowed_length;
    int32_t dry_penalty_last_n; /* -1: the whole history */
    uint64_t seed;
} engine_sampling;

typedef struct {
    int32_t token;            /* the chosen id */
    float logprob;            /* log softmax of the raw logits at token */
} engine_choice;

/* Chooses a token from logits[n_vocab] (not modified), by the steps that
 * sampling.c lists in order. history[n_history]: ids the penalties look at.
 * bias_*: added to the logits of bias_token[n_bias]; -INFINITY forbids a token.
 * allowed: a bit a token (token t: bit t % 32 of word t / 32), those that may be
 * chosen, or NULL for all. breakers: likewise, those that end a repetition for DRY,
 * or NULL for none.
 * scratch: float[4 * n_vocab]. The draw depends on (seed, position) only (Philox
 * 4x32-10). ENGINE_E_NUMERIC: a logit is NaN or infinite; ENGINE_E_ARGUMENT: a
 * parameter or an id is out of range, or every token is forbidden. */
int32_t engine_sample(const float *logits, int32_t n_vocab, const engine_sampling *params,
                      const int32_t *history, int32_t n_history,
                      const int32_t *bias_token, const float *bias, int32_t n_bias,
                      const uint32_t *allowed, const uint32_t *breakers,
                      uint64_t position, float *scratch, engine_choice *out);

/* The n most likely tokens of a row and their log-probabilities, descending,
 * ties to the lowest id. */
int32_t engine_top_logprobs(const float *logits, int32_t n_vocab, int32_t n,
                            int32_t *tokens, float *logprobs);
/* cdef-end */
#endif

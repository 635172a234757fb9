/* step.h: the state of an open bundle and of the step at hand, and the small
 * helpers that the emitted forward.c is written in. */
#ifndef STEP_H
#define STEP_H

/* A run of the step's tokens: `count` consecutive positions of one slot, from token `first` on. */
typedef struct {
    int32_t slot, first, count, position;
} sequence;

struct engine {
    const uint8_t *weights;
    uint8_t *arena, *kv, *scratch;
    float *rotary;                    /* the rotation tables, one after the other */
    threadpool *pool;
    int32_t threads;
    int32_t length[SLOTS];            /* positions written in each slot */
    const int32_t *pages;             /* [SLOTS][PAGE_GROUPS][PAGE_BLOCKS], the caller's */

    /* Atomic: a thread that comes after the step reads them while the next one is being prepared. */
    _Atomic int32_t n, n_want, n_tiles;
    int32_t n_sequences;
    int32_t slot[STEP_TOKENS], position[STEP_TOKENS], token[STEP_TOKENS];
    int32_t wanted[STEP_TOKENS];      /* indices of the tokens whose logits are wanted */
    sequence sequences[STEP_TOKENS];
    sequence tiles[STEP_TOKENS];      /* the sequences in runs of at most QUERY_TILE tokens */
    float *_Atomic logits;

    _Atomic int32_t n_active;         /* experts that some token is routed to */
    int32_t active[N_EXPERTS + 1];
    int32_t expert_first[N_EXPERTS + 1];   /* first pair of an expert; pairs are sorted by expert */

    int checking;
    engine_fault fault;
    uint64_t ns, op_ns[N_OPS], mark;
    int32_t timed;                    /* the timer that ran last */
};

typedef struct {
    int32_t first, end;
} span;

/* Parts that rows are shared out in, a thread: small enough that what is left at the end is little. */
#define ROW_UNITS 8

static uint64_t now_ns(void);
static inline uint64_t kernel_scratch(void);   /* bytes, emitted in forward.c */
static inline uint64_t thread_scratch(void)
{
    return kernel_scratch() + 2 * TOKEN_TILE * PANEL_ROWS * sizeof(float);
}

#define AT(offset) ((float *)(e->arena + (offset)))
#define VECTOR(offset) ((const float *)(e->weights + (offset)))
#define MATRIX(offset) (e->weights + (offset))

/* A thread's private memory: kernel scratch, then the sums of a panel for a tile of tokens, twice. */
static inline uint8_t *scratch_of(engine *e, int32_t thread)
{
    return e->scratch + (uint64_t)thread * thread_scratch();
}
static inline float *sums_of(engine *e, int32_t thread)
{
    return (float *)(scratch_of(e, thread) + kernel_scratch());
}

static inline int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Panels of a gate, then of its up projection, that are read in a row where tokens are few. */
#define GLU_PANELS 8

/* The sums of `rows` <= 16 rows of a panel for `count` tokens, plus bias, plus residual, in this order.
 * bias: the panel's part or NULL. residual, out: the panel's first column of the first token. */
static inline void store_panel(const float *sums, int32_t count, int32_t rows, const float *bias,
                               const float *residual, int32_t residual_stride, float *out, int32_t stride)
{
    for (int32_t t = 0; t < count; t++) {
        const float *s = sums + t * PANEL_ROWS;
        float *o = out + (int64_t)t * stride;
        const float *r = residual ? residual + (int64_t)t * residual_stride : NULL;
        if (rows == PANEL_ROWS && !bias) {
            for (int32_t i = 0; i < PANEL_ROWS; i++)
                o[i] = r ? s[i] + r[i] : s[i];
            continue;
        }
        for (int32_t i = 0; i < rows; i++) {
            const float v = bias ? s[i] + bias[i] : s[i];
            o[i] = r ? v + r[i] : v;
        }
    }
}

static inline void copy_row(const float *x, int32_t n, float *out)
{
    if (x != out)
        memcpy(out, x, (size_t)n * sizeof *x);
}

/* out += weight * x, each product rounded before it is added. */
static inline void add_scaled_row(const float *x, int32_t n, float weight, float *out)
{
    for (int32_t i = 0; i < n; i++)
        out[i] += weight * x[i];
}

/* ---- experts ------------------------------------------------------------ */

/* Where a layer's routing lies: the chosen experts and their weights [n][used] in order of rank,
 * the token of each pair and the pair of each (token, rank). */
typedef struct {
    int32_t *expert;
    float *weight;
    int32_t *token_of;
    int32_t *pair_of;
} routing;

/* The `used` largest of scores[experts], descending, ties to the lowest expert; scores is spoiled. */
static inline void choose_experts(float *scores, int32_t experts, int32_t used, int32_t *expert, float *weight)
{
    for (int32_t r = 0; r < used; r++) {
        int32_t best = 0;
        for (int32_t x = 1; x < experts; x++)
            if (scores[x] > scores[best])
                best = x;
        expert[r] = best;
        weight[r] = scores[best];
        scores[best] = -1.0f;      /* scores are positive */
    }
}

/* Weights divided by their sum (ranks ascending, at least 2^-14), then times scale. */
static inline void weigh_experts(float *weight, int32_t used, int normalize, float scale)
{
    float sum = 0.0f;
    for (int32_t r = 0; r < used; r++)
        sum += weight[r];
    if (sum < 0x1p-14f)
        sum = 0x1p-14f;
    for (int32_t r = 0; r < used; r++)
        weight[r] = (normalize ? weight[r] / sum : weight[r]) * scale;
}

/* Sorts the step's pairs by expert, tokens ascending within one. */
static inline void sort_pairs(engine *e, const routing *route, int32_t experts, int32_t used)
{
    const int32_t pairs = e->n * used;
    int32_t next = 0, n_active = 0;
    int32_t counts[N_EXPERTS + 1] = {0};
    for (int32_t i = 0; i < pairs; i++)
        counts[route->expert[i]]++;
    for (int32_t x = 0; x < experts; x++) {
        e->expert_first[x] = next;
        if (counts[x])
            e->active[n_active++] = x;
        next += counts[x];
        counts[x] = e->expert_first[x];
    }
    e->expert_first[experts] = next;
    e->n_active = n_active;
    for (int32_t i = 0; i < pairs; i++) {
        const int32_t pair = counts[route->expert[i]]++;
        route->token_of[pair] = i / used;
        route->pair_of[i] = pair;
    }
}

/* ---- checking and timing -------------------------------------------------- */

/* Remembers the first op whose result is not finite. */
static void check_rows(engine *e, int32_t op, int32_t layer, const float *x, int32_t rows, int32_t columns, int32_t stride)
{
    if (e->fault.op >= 0)
        return;
    for (int32_t t = 0; t < rows; t++)
        for (int32_t c = 0; c < columns; c++)
            if (!isfinite(x[(int64_t)t * stride + c])) {
                e->fault = (engine_fault){.op = op, .layer = layer, .token_index = t};
                return;
            }
}
#define CHECK(op, layer, x, rows, columns, stride) \
    do { if (thread == 0 && e->checking) check_rows(e, (op), (layer), (x), (rows), (columns), (stride)); } while (0)

#if OP_TIMING
/* Thread 0's time since the last mark goes to timer i. */
static inline void take_time(engine *e, int32_t i)
{
    const uint64_t now = now_ns();
    e->op_ns[i] += now - e->mark;
    e->mark = now;
    e->timed = i;
}
#define TIMED(op) do { if (thread == 0) take_time(e, (op)); } while (0)
#else
#define TIMED(op) do { } while (0)
#endif

/* The next part of n rows that nobody has taken in this phase; 0 where none is left. */
static inline int next_rows(engine *e, int32_t thread, int32_t n, span *rows)
{
    const int32_t units = e->threads == 1 ? n > 0 : smaller(n, ROW_UNITS * e->threads);
    const int32_t unit = threadpool_next(e->pool, thread, units);
    if (unit >= 0)
        *rows = (span){(int32_t)((int64_t)n * unit / units), (int32_t)((int64_t)n * (unit + 1) / units)};
    return unit >= 0;
}

/* The phase ends when all its rows, panels or heads are done; thread 0's waiting is counted behind
 * the op that it waited after. */
static inline void barrier(engine *e, int32_t thread)
{
    threadpool_complete(e->pool, thread);
    TIMED(N_TIMED + e->timed % N_TIMED);
}
#endif

/* check_rows.c: row operations, attention and the pool. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "engine_abi.h"
#include "threadpool.h"
#include "../threadpool.c"

/* Row operation `op` of one table on x, w, b, u (n floats each) into out. */
#define ROW_OPS (TABLE_IN_PLACE + TABLE_GLUS + 9)
static void run_row(const kernel_table *t, int32_t op, const float *x, const float *w, const float *b,
                    int32_t n, float eps, float *out)
{
    int32_t copied = op < TABLE_IN_PLACE || op >= TABLE_IN_PLACE + TABLE_GLUS + 4;
    if (copied)
        memcpy(out, x, sizeof(float) * (size_t)n);
    if (op < TABLE_IN_PLACE) {
        t->in_place[op](out, n);
        return;
    }
    op -= TABLE_IN_PLACE;
    if (op < TABLE_GLUS) {
        t->glu[op](x, w, n, out);
        return;
    }
    switch (op - TABLE_GLUS) {
    case 0: t->rms_norm(x, w, n, eps, out); break;
    case 1: t->rms_norm(x, NULL, n, eps, out); break;
    case 2: t->layer_norm(x, w, b, n, eps, out); break;
    case 3: t->add_rows(x, w, n, out); break;
    case 4: t->rope_row(out, n / 2 * 2, w, 0); break;
    case 5: t->rope_row(out, n / 2 * 2, w, 1); break;
    case 6: t->softcap(out, n, 30.0f); break;
    case 7: t->scale_row(out, n, eps); break;
    default: t->rms_norm(out, w, n, eps, out); break;      /* in place */
    }
}

int64_t check_rows(const kernel_table *reference, const kernel_table *tested, int64_t cases, uint64_t seed, uint64_t *first)
{
    int64_t failures = 0;
    for (int64_t i = 0; i < cases; ++i) {
        random_stream r = {(seed + (uint64_t)i) * 0x2545f4914f6cdd1du};
        int32_t n = 1 + random_below(&r, random_below(&r, 3) ? 40 : 700);
        int32_t failed = 0;
        guarded in[3], out[2];
        for (int32_t s = 0; s < 3; ++s) {
            in[s] = guarded_new((int64_t)n * 4, 4);
            random_floats(&r, (float *)in[s].data, n);
        }
        for (int32_t op = 0; op < ROW_OPS; ++op) {
            const kernel_table *tables[2] = {reference, tested};
            for (int32_t s = 0; s < 2; ++s) {
                out[s] = guarded_new((int64_t)n * 4, 4);
                run_row(tables[s], op, (float *)in[0].data, (float *)in[1].data,
                        i % 2 ? (float *)in[2].data : NULL, n, 1e-5f, (float *)out[s].data);
                failed |= !guarded_intact(&out[s]);
            }
            failed |= !same_floats((float *)out[0].data, (float *)out[1].data, n);
            guarded_free(&out[0]);
            guarded_free(&out[1]);
        }
        for (int32_t s = 0; s < 3; ++s) {
            failed |= !guarded_intact(&in[s]);
            guarded_free(&in[s]);
        }
        if (failed && failures++ == 0)
            *first = seed + (uint64_t)i;
    }
    return failures;
}

/* Blocks that positions of a checked call lie in at most: three rounds of a ring of four, and its end. */
#define CHECKED_BLOCKS 14

/* Which of `n` pages holds each block: in an order of chance, a block taking over that of the n-th before it. */
static void random_pages(random_stream *r, int32_t *pages, int32_t n)
{
    for (int32_t block = 0; block < CHECKED_BLOCKS; ++block)
        pages[block] = block < n ? block : pages[block - n];
    for (int32_t block = n - 1; block > 0; --block) {
        const int32_t other = random_below(r, block + 1), page = pages[block];
        pages[block] = pages[other];
        pages[other] = page;
    }
    for (int32_t block = n; block < CHECKED_BLOCKS; ++block)
        pages[block] = pages[block - n];
}

int64_t check_attention(const kernel_table *reference, const kernel_table *tested, int32_t type,
                        int64_t cases, uint64_t seed, uint64_t *first)
{
    static const int32_t dims[] = {16, 32, 64, 80, 24, 96, 128, 20};
    int64_t failures = 0, element = type == TABLE_KV_F32 ? 4 : type == TABLE_KV_F16 ? 2 : 1;
    for (int64_t i = 0; i < cases; ++i) {
        random_stream r = {(seed + (uint64_t)i) * 0x2545f4914f6cdd1du};
        attention_shape s = {0};
        s.head_dim_k = dims[random_below(&r, 8)];
        s.head_dim_v = random_below(&r, 3) ? s.head_dim_k : dims[random_below(&r, 8)];
        s.n_kv_heads = 1 + random_below(&r, 2);
        int32_t group = 1 + random_below(&r, 8);
        s.n_heads = s.n_kv_heads * group;
        const int32_t blocks = 1 + random_below(&r, 4), capacity = ATTENTION_BLOCK * blocks;
        s.scale = 0.125f;
        s.softcap = random_below(&r, 3) ? 0.0f : 20.0f;
        int32_t nq = random_below(&r, 2) ? 1 : 1 + random_below(&r, 24);
        int32_t position = random_below(&r, capacity - nq + 1);
        if (blocks > 1 && random_below(&r, 2)) {                         /* a ring that has gone round */
            s.window = 1 + random_below(&r, capacity - ATTENTION_BLOCK);
            if (random_below(&r, 3))
                position = random_below(&r, 3 * capacity);
        }
        const int64_t cells = (int64_t)s.n_kv_heads * ATTENTION_BLOCK;
        s.v_at = (cells * s.head_dim_k * element + 63) / 64 * 64;
        const int64_t scales_at = (s.v_at + cells * s.head_dim_v * element + 63) / 64 * 64;
        s.k_scale_at = type == TABLE_KV_Q8_0 ? scales_at : 0;
        s.v_scale_at = type == TABLE_KV_Q8_0 ? scales_at + cells * 4 : 0;
        s.page_stride = scales_at + cells * 8;
        int32_t pages[CHECKED_BLOCKS];
        random_pages(&r, pages, blocks);
        int32_t q_stride = s.n_heads * s.head_dim_k + random_below(&r, 5), out_stride = s.n_heads * s.head_dim_v;
        guarded q = guarded_new((int64_t)nq * q_stride * 4, 4);
        guarded kv = guarded_new((int64_t)s.n_kv_heads * (s.head_dim_k + s.head_dim_v) * 4, 4);
        guarded pool[2], out[3], scratch[2];
        const kernel_table *tables[2] = {reference, tested};
        int32_t failed = 0;
        for (int32_t side = 0; side < 2; ++side) {
            pool[side] = guarded_new(blocks * s.page_stride, 64);
            memset(pool[side].data, 0xff, (size_t)pool[side].bytes);
            scratch[side] = guarded_new(attention_scratch_bytes(&s), 64);
        }
        for (int32_t side = 0; side < 3; ++side) {
            out[side] = guarded_new((int64_t)nq * out_stride * 4, 4);
            memset(out[side].data, 0, (size_t)out[side].bytes);
        }
        random_floats(&r, (float *)q.data, (int64_t)nq * q_stride);
        int32_t oldest = position + nq > capacity ? position + nq - capacity : 0;
        for (int32_t p = oldest; p < position + nq; ++p) {
            random_floats(&r, (float *)kv.data, (int64_t)s.n_kv_heads * (s.head_dim_k + s.head_dim_v));
            for (int32_t side = 0; side < 2; ++side) {
                kv_slot slot = {pool[side].data, pages};
                tables[side]->kv_store[type](&s, slot, p, (float *)kv.data, (float *)kv.data + s.n_kv_heads * s.head_dim_k);
            }
        }
        for (int32_t page = 0; page < blocks && type == TABLE_KV_Q8_0; ++page)
            failed |= memcmp(pool[0].data + page * s.page_stride, pool[1].data + page * s.page_stride, (size_t)s.v_at) != 0;
        int32_t first_position = s.window && position >= s.window ? position - s.window + 1 : 0;
        int32_t first_block = first_position / ATTENTION_BLOCK, last_block = (position + nq - 1) / ATTENTION_BLOCK;
        int64_t state_bytes = attention_state_floats(&s) * nq * group * 4;
        guarded states = guarded_new(state_bytes * (last_block - first_block + 1), 64);
        for (int32_t head = 0; head < s.n_kv_heads; ++head) {
            int32_t q_at = head * group * s.head_dim_k, out_at = head * group * s.head_dim_v;
            for (int32_t side = 0; side < 2; ++side) {
                kv_slot slot = {pool[side].data, pages};
                tables[side]->attention[type](&s, slot, head, position, nq, (float *)q.data + q_at, q_stride,
                                              (float *)out[side].data + out_at, out_stride, scratch[side].data);
                failed |= !guarded_intact(&scratch[side]);
                if (side == 0)
                    continue;
                /* The same by blocks, in no particular order. */
                for (int32_t block = last_block; block >= first_block; --block)
                    tables[side]->attention_block[type](&s, slot, head, block, position, nq, (float *)q.data + q_at, q_stride,
                                                        (float *)(states.data + (block - first_block) * state_bytes),
                                                        scratch[side].data);
                tables[side]->attention_combine(&s, position, nq, first_block, (float *)states.data,
                                                (float *)out[2].data + out_at, out_stride);
                failed |= !guarded_intact(&states);
            }
        }
        int64_t n = (int64_t)nq * out_stride;
        failed |= !same_floats((float *)out[0].data, (float *)out[1].data, n);
        failed |= !same_floats((float *)out[1].data, (float *)out[2].data, n);
        for (int32_t side = 0; side < 2; ++side) {
            failed |= !guarded_intact(&pool[side]);
            guarded_free(&pool[side]);
            guarded_free(&scratch[side]);
        }
        for (int32_t side = 0; side < 3; ++side) {
            failed |= !guarded_intact(&out[side]);
            guarded_free(&out[side]);
        }
        guarded_free(&states);
        guarded_free(&q);
        guarded_free(&kv);
        if (failed && failures++ == 0)
            *first = seed + (uint64_t)i;
    }
    return failures;
}

/* Every unit of every phase is taken once, by whichever thread; none begins before the last one is over. */
#define POOL_OPS 20
#define POOL_UNITS 64
typedef struct {
    threadpool *pool;
    int32_t units[POOL_OPS];
    _Atomic int32_t taken[POOL_OPS][POOL_UNITS];
    _Atomic int32_t done[POOL_OPS];
    _Atomic int32_t wrong;
} pool_case;

static void pool_body(void *arg, int32_t thread)
{
    pool_case *c = arg;
    for (int32_t op = 0; op < POOL_OPS; ++op) {
        for (int32_t unit; (unit = threadpool_next(c->pool, thread, c->units[op])) >= 0;) {
            if (op > 0 && atomic_load(&c->done[op - 1]) != c->units[op - 1])
                atomic_store(&c->wrong, 1);
            atomic_fetch_add(&c->taken[op][unit], 1);
            atomic_fetch_add(&c->done[op], 1);
        }
        threadpool_complete(c->pool, thread);
    }
}

int64_t check_threadpool(int64_t cases, uint64_t seed, uint64_t *first)
{
    int64_t failures = 0;
    for (int64_t i = 0; i < cases; ++i) {
        random_stream r = {(seed + (uint64_t)i) * 0x2545f4914f6cdd1du};
        static pool_case c;
        int32_t threads = 1 + random_below(&r, 5), failed = 0;
        if (threadpool_create(threads, &c.pool) != ENGINE_OK || threadpool_threads(c.pool) != threads) {
            failed = 1;
        } else {
            for (int32_t run = 0; run < 5; ++run) {
                memset(c.taken, 0, sizeof c.taken);
                memset(c.done, 0, sizeof c.done);
                c.wrong = 0;
                for (int32_t op = 0; op < POOL_OPS; ++op)
                    c.units[op] = random_below(&r, POOL_UNITS + 1);
                threadpool_run(c.pool, pool_body, &c);
                failed |= c.wrong;
                for (int32_t op = 0; op < POOL_OPS; ++op)
                    for (int32_t unit = 0; unit < POOL_UNITS; ++unit)
                        failed |= c.taken[op][unit] != (unit < c.units[op]);
            }
            threadpool_destroy(c.pool);
        }
        threadpool *none;
        failed |= threadpool_create(0, &none) != ENGINE_E_ARGUMENT || none != NULL;
        if (failed && failures++ == 0)
            *first = seed + (uint64_t)i;
    }
    return failures;
}

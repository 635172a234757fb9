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
        s.capacity = ATTENTION_BLOCK * (1 + random_below(&r, 4));
        s.scale = 0.125f;
        s.softcap = random_below(&r, 3) ? 0.0f : 20.0f;
        int32_t nq = random_below(&r, 2) ? 1 : 1 + random_below(&r, 24);
        int32_t position = random_below(&r, s.capacity - nq + 1);
        if (s.capacity > ATTENTION_BLOCK && random_below(&r, 2)) {       /* a ring that has gone round */
            s.window = 1 + random_below(&r, s.capacity - ATTENTION_BLOCK);
            if (random_below(&r, 3))
                position = random_below(&r, 3 * s.capacity);
        }
        int64_t cells = (int64_t)s.n_kv_heads * s.capacity;
        int32_t q_stride = s.n_heads * s.head_dim_k + random_below(&r, 5), out_stride = s.n_heads * s.head_dim_v;
        guarded q = guarded_new((int64_t)nq * q_stride * 4, 4);
        guarded kv = guarded_new((int64_t)s.n_kv_heads * (s.head_dim_k + s.head_dim_v) * 4, 4);
        guarded k[2], v[2], k_scale[2], v_scale[2], out[3], scratch[2];
        const kernel_table *tables[2] = {reference, tested};
        int32_t failed = 0;
        for (int32_t side = 0; side < 2; ++side) {
            k[side] = guarded_new(cells * s.head_dim_k * element, 1);
            v[side] = guarded_new(cells * s.head_dim_v * element, 1);
            k_scale[side] = guarded_new(cells * 4, 4);
            v_scale[side] = guarded_new(cells * 4, 4);
            scratch[side] = guarded_new(attention_scratch_bytes(&s), 64);
        }
        for (int32_t side = 0; side < 3; ++side) {
            out[side] = guarded_new((int64_t)nq * out_stride * 4, 4);
            memset(out[side].data, 0, (size_t)out[side].bytes);
        }
        random_floats(&r, (float *)q.data, (int64_t)nq * q_stride);
        int32_t oldest = position + nq > s.capacity ? position + nq - s.capacity : 0;
        for (int32_t p = oldest; p < position + nq; ++p) {
            random_floats(&r, (float *)kv.data, (int64_t)s.n_kv_heads * (s.head_dim_k + s.head_dim_v));
            for (int32_t side = 0; side < 2; ++side) {
                kv_slot slot = {k[side].data, v[side].data, type == TABLE_KV_Q8_0 ? (float *)k_scale[side].data : NULL,
                                type == TABLE_KV_Q8_0 ? (float *)v_scale[side].data : NULL};
                tables[side]->kv_store[type](&s, slot, p, (float *)kv.data, (float *)kv.data + s.n_kv_heads * s.head_dim_k);
            }
        }
        failed |= memcmp(k[0].data, k[1].data, (size_t)k[0].bytes) != 0 && type == TABLE_KV_Q8_0;
        int32_t first_position = s.window && position >= s.window ? position - s.window + 1 : 0;
        int32_t first_block = first_position / ATTENTION_BLOCK, last_block = (position + nq - 1) / ATTENTION_BLOCK;
        int64_t state_bytes = attention_state_floats(&s) * nq * group * 4;
        guarded states = guarded_new(state_bytes * (last_block - first_block + 1), 64);
        for (int32_t head = 0; head < s.n_kv_heads; ++head) {
            int32_t q_at = head * group * s.head_dim_k, out_at = head * group * s.head_dim_v;
            for (int32_t side = 0; side < 2; ++side) {
                kv_slot slot = {k[side].data, v[side].data, type == TABLE_KV_Q8_0 ? (float *)k_scale[side].data : NULL,
                                type == TABLE_KV_Q8_0 ? (float *)v_scale[side].data : NULL};
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
            failed |= !(guarded_intact(&k[side]) && guarded_intact(&v[side]) && guarded_intact(&k_scale[side])
                        && guarded_intact(&v_scale[side]));
            guarded_free(&k[side]);
            guarded_free(&v[side]);
            guarded_free(&k_scale[side]);
            guarded_free(&v_scale[side]);
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

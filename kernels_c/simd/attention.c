/* attention.c: attention over 16 lanes; the meaning is reference/attention.c.
 *
 * Scores have 16 tokens of a K tile in lanes, the weighted sum 16 values of d. Rows, that is
 * (token, head) pairs that share a kv head, are taken ATTENTION_TILE at a time, so that one load
 * of K or V serves them all. */
static inline int32_t attention_first(const attention_shape *s, int32_t position)
{
    return s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
}

enum { KV_F32, KV_F16, KV_Q8_0 };

/* 16 elements from `index` on; type is a constant. */
V16 v16 kv_load(int32_t type, const void *elements, int64_t index)
{
    switch (type) {
    case KV_F32: return v16_load((const float *)elements + index);
    case KV_F16: return v16_load_f16((const uint16_t *)elements + index);
    default: return v16_load_i8((const int8_t *)elements + index);
    }
}

V16 float kv_element(int32_t type, const void *elements, int64_t index)
{
    switch (type) {
    case KV_F32: return ((const float *)elements)[index];
    case KV_F16: return half_to_float(((const uint16_t *)elements)[index]);
    default: return (float)((const int8_t *)elements)[index];
    }
}

#define PREFETCH_L2 2               /* the locality that GCC makes a prefetcht1 of */
V16 int32_t kv_element_bytes(int32_t type) { return type == KV_F32 ? 4 : type == KV_F16 ? 2 : 1; }

/* Has `count` elements from `index` on come to L2: while K is multiplied the block's V, and while V is,
 * the next block's K. Not to L1, which can await too few lines at a time to keep memory busy. */
V16 void kv_fetch(int32_t type, const void *elements, int64_t index, int32_t count)
{
    const char *first = (const char *)elements + index * kv_element_bytes(type);
    for (int32_t at = 0; at < count * kv_element_bytes(type); at += 64)
        __builtin_prefetch(first + at, 0, PREFETCH_L2);
}

/* A tile's rows in one block: where each one's range begins and ends in it (offsets from the
 * block's first position, the end excluded). */
typedef struct {
    const float *q[ATTENTION_TILE];
    int32_t from[ATTENTION_TILE], to[ATTENTION_TILE];
} attention_rows;

/* q.k of `rows` rows and `tiles` tiles of 16 tokens (constants); out[row][ATTENTION_BLOCK]. The same
 * tokens' V, from v_index on, comes meanwhile. */
V16 void score_tiles(int32_t type, int32_t rows, int32_t tiles, const attention_rows *r, const void *k,
                     int64_t index, int32_t head_dim, const void *v, int64_t v_index, float *out)
{
    v16 sum[4 * ATTENTION_TILE];
    for (int32_t i = 0; i < rows * tiles; ++i)
        sum[i] = v16_zero();
    for (int32_t d = 0; d < head_dim; ++d) {
        kv_fetch(type, v, v_index + (int64_t)d * tiles * 16, tiles * 16);
#pragma GCC unroll 4
        for (int32_t tile = 0; tile < tiles; ++tile) {
            v16 key = kv_load(type, k, index + ((int64_t)tile * head_dim + d) * 16);
#pragma GCC unroll 6
            for (int32_t i = 0; i < rows; ++i)
                sum[tile * rows + i] = v16_fma(v16_set1(r->q[i][d]), key, sum[tile * rows + i]);
        }
    }
    for (int32_t tile = 0; tile < tiles; ++tile)
        for (int32_t i = 0; i < rows; ++i)
            v16_store(out + i * ATTENTION_BLOCK + tile * 16, sum[tile * rows + i]);
}

/* Adds tokens from..to-1 of the block to `rows` rows (a constant) of out, 16 * wide values of d from
 * d0 on; row i takes those of its own range, ascending. next: what comes meanwhile, laid out as V is. */
V16 void weigh_tokens(int32_t type, int32_t rows, int32_t wide, const attention_rows *r, const float *weights,
                      const void *v, int64_t index, int32_t head_dim, int32_t d0, int32_t from, int32_t to,
                      const void *next, float *out, int64_t stride)
{
    v16 sum[4 * ATTENTION_TILE];
    int32_t begin = from, end = to;         /* what all rows share */
    for (int32_t i = 0; i < rows; ++i) {
        begin = r->from[i] > begin ? r->from[i] : begin;
        end = r->to[i] < end ? r->to[i] : end;
        for (int32_t j = 0; j < wide; ++j)
            sum[i * wide + j] = v16_load(out + i * stride + d0 + 16 * j);
    }
    if (begin > end)
        begin = end = to;                   /* nothing: each row goes alone, before `begin` */
    for (int32_t i = 0; i < rows; ++i)
        for (int32_t token = r->from[i] > from ? r->from[i] : from;
             token < begin && token < r->to[i]; ++token)
            for (int32_t j = 0; j < wide; ++j)
                sum[i * wide + j] = v16_fma(v16_set1(weights[i * ATTENTION_BLOCK + token]),
                                            kv_load(type, v, index + (int64_t)token * head_dim + d0 + 16 * j),
                                            sum[i * wide + j]);
    for (int32_t token = begin; token < end; ++token) {
        kv_fetch(type, next, index + (int64_t)token * head_dim + d0, 16 * wide);
#pragma GCC unroll 4
        for (int32_t j = 0; j < wide; ++j) {
            v16 value = kv_load(type, v, index + (int64_t)token * head_dim + d0 + 16 * j);
#pragma GCC unroll 6
            for (int32_t i = 0; i < rows; ++i)
                sum[i * wide + j] = v16_fma(v16_set1(weights[i * ATTENTION_BLOCK + token]), value, sum[i * wide + j]);
        }
    }
    for (int32_t i = 0; i < rows; ++i) {
        for (int32_t token = end > r->from[i] ? end : r->from[i]; token < to && token < r->to[i]; ++token)
            for (int32_t j = 0; j < wide; ++j)
                sum[i * wide + j] = v16_fma(v16_set1(weights[i * ATTENTION_BLOCK + token]),
                                            kv_load(type, v, index + (int64_t)token * head_dim + d0 + 16 * j),
                                            sum[i * wide + j]);
        for (int32_t j = 0; j < wide; ++j)
            v16_store(out + i * stride + d0 + 16 * j, sum[i * wide + j]);
    }
}

/* V is walked in chunks of this many tokens, which stay in L1 for all values of d. */
#define VALUE_CHUNK 64

/* `rows` rows of one block into states[row]; e: [rows][ATTENTION_BLOCK]. more: the next block is held, too. */
V16 void attend(const attention_shape *s, int32_t type, int32_t rows, kv_slot kv, int32_t kv_head, int32_t block,
                int32_t more, const attention_rows *r, float *states, float *e)
{
    int32_t from = r->from[0], to = r->to[0];
    for (int32_t i = 1; i < rows; ++i) {
        from = r->from[i] < from ? r->from[i] : from;
        to = r->to[i] > to ? r->to[i] : to;
    }
    const kv_page page = kv_page_of(s, kv, block);
    const int64_t token_index = (int64_t)kv_head * ATTENTION_BLOCK;
    int32_t tile = from / 16, tiles = (to + 15) / 16;
    int32_t wide = ATTENTION_WIDE(rows);
#define SCORE(count)                                                                                         \
    for (; tile + (count) <= tiles; tile += (count)) {                                                       \
        int64_t token = token_index + tile * 16;                                                             \
        score_tiles(type, rows, count, r, page.k, token * s->head_dim_k, s->head_dim_k,                        \
                    page.v, token * s->head_dim_v, e + tile * 16);                                             \
    }
    if (wide == 4)
        SCORE(4)
    if (wide >= 2)
        SCORE(2)
    SCORE(1)
#undef SCORE

    int64_t stride = attention_state_floats(s);
    v16 scale = v16_set1(s->scale), cap = v16_set1(s->softcap);
    for (int32_t i = 0; i < rows; ++i) {
        float *row = e + i * ATTENTION_BLOCK;
        int32_t first = r->from[i] / 16 * 16;
        v16 maxima = v16_set1(-__builtin_inff());
        for (int32_t token = first; token < r->to[i]; token += 16) {
            v16 score = v16_load(row + token);
            if (type == KV_Q8_0)
                score = v16_mul(score, v16_load(page.k_scale + token_index + token));
            score = v16_mul(score, scale);
            if (s->softcap != 0.0f)
                score = v16_mul(cap, v16_tanh(v16_div(score, cap)));
            score = v16_keep(score, r->from[i] - token, r->to[i] - token, v16_set1(-__builtin_inff()));
            maxima = v16_max(score, maxima);
            v16_store(row + token, score);
        }
        float max = v16_largest(maxima);
        v16 lanes = v16_zero();
        for (int32_t token = first; token < r->to[i]; token += 16) {
            v16 weight = v16_exp(v16_sub(v16_load(row + token), v16_set1(max)));
            lanes = v16_add(lanes, v16_keep(weight, r->from[i] - token, r->to[i] - token, v16_zero()));
            if (type == KV_Q8_0)
                weight = v16_mul(weight, v16_load(page.v_scale + token_index + token));
            v16_store(row + token, weight);
        }
        float *state = states + i * stride;
        memset(state, 0, sizeof(float) * (size_t)stride);
        state[stride - 16] = max;
        state[stride - 15] = v16_tree_sum(lanes);
    }

    int64_t value_index = token_index * s->head_dim_v;
    const void *next = more ? kv_page_of(s, kv, block + 1).k : page.k;
    for (int32_t chunk = from; chunk < to; chunk += VALUE_CHUNK) {
        int32_t end = chunk + VALUE_CHUNK < to ? chunk + VALUE_CHUNK : to;
        int32_t d = 0;
        for (; d + 16 * wide <= s->head_dim_v; d += 16 * wide)
            weigh_tokens(type, rows, wide, r, e, page.v, value_index, s->head_dim_v, d, chunk, end, next, states, stride);
        for (; d + 16 <= s->head_dim_v; d += 16)
            weigh_tokens(type, rows, 1, r, e, page.v, value_index, s->head_dim_v, d, chunk, end, next, states, stride);
        for (; d < s->head_dim_v; ++d)
            for (int32_t i = 0; i < rows; ++i)
                for (int32_t token = r->from[i] > chunk ? r->from[i] : chunk; token < end && token < r->to[i]; ++token)
                    states[i * stride + d] = fma_f32(e[i * ATTENTION_BLOCK + token],
                                                     kv_element(type, page.v, value_index + (int64_t)token * s->head_dim_v + d),
                                                     states[i * stride + d]);
    }
}

static void attention_join(const attention_shape *s, float *state, const float *block)
{
    int64_t tail = attention_state_floats(s) - 16;
    float max = block[tail] > state[tail] ? block[tail] : state[tail];
    float a = exp_f32(state[tail] - max), c = exp_f32(block[tail] - max);
    state[tail] = max;
    state[tail + 1] = fma_f32(block[tail + 1], c, state[tail + 1] * a);
    for (int64_t d = 0; d < tail; d += 16)
        v16_store(state + d, v16_fma(v16_load(block + d), v16_set1(c), v16_mul(v16_load(state + d), v16_set1(a))));
}

static void attention_finish(const attention_shape *s, const float *state, float *out)
{
    float inverse = 1.0f / state[attention_state_floats(s) - 15];
    for (int32_t d = 0; d < s->head_dim_v; ++d)
        out[d] = state[d] * inverse;
}

/* Rows row0 .. row1-1 of the call (row = token * group + head), all of which meet the block. */
V16 void attend_rows(const attention_shape *s, int32_t type, kv_slot kv, int32_t kv_head, int32_t block,
                     int32_t position, const float *q, int32_t q_stride, int32_t row0, int32_t rows,
                     float *states, float *e)
{
    int32_t group = s->n_heads / s->n_kv_heads, base = block * ATTENTION_BLOCK;
    const int32_t more = position + (row0 + rows - 1) / group >= base + ATTENTION_BLOCK;
    attention_rows r;
    for (int32_t i = 0; i < rows; ++i) {
        int32_t token = (row0 + i) / group, head = (row0 + i) % group, p = position + token;
        int32_t first = attention_first(s, p) - base, end = p - base + 1;
        r.q[i] = q + (int64_t)token * q_stride + (int64_t)head * s->head_dim_k;
        r.from[i] = first > 0 ? first : 0;
        r.to[i] = end < ATTENTION_BLOCK ? end : ATTENTION_BLOCK;
    }
    switch (rows) {
    case 1: attend(s, type, 1, kv, kv_head, block, more, &r, states, e); break;
    case 2: attend(s, type, 2, kv, kv_head, block, more, &r, states, e); break;
    case 3: attend(s, type, 3, kv, kv_head, block, more, &r, states, e); break;
    case 4: attend(s, type, 4, kv, kv_head, block, more, &r, states, e); break;
    case 5: attend(s, type, 5, kv, kv_head, block, more, &r, states, e); break;
    default: attend(s, type, 6, kv, kv_head, block, more, &r, states, e); break;
    }
}
_Static_assert(ATTENTION_TILE == 6, "attend_rows has a case for each count of rows");

/* Of the call's rows from..to-1, those whose range meets the block: positions only ascend, so they
 * stand together. */
V16 void rows_of_block(const attention_shape *s, int32_t block, int32_t position, int32_t *from, int32_t *to)
{
    int32_t group = s->n_heads / s->n_kv_heads, base = block * ATTENTION_BLOCK;
    while (*from < *to && position + *from / group < base)
        ++*from;
    while (*to > *from && attention_first(s, position + (*to - 1) / group) > base + ATTENTION_BLOCK - 1)
        --*to;
}

V16 void attention_block_any(const attention_shape *s, int32_t type, kv_slot kv, int32_t kv_head, int32_t block,
                             int32_t position, int32_t nq, const float *q, int32_t q_stride, float *states,
                             uint8_t *scratch)
{
    int32_t from = 0, to = nq * (s->n_heads / s->n_kv_heads);
    rows_of_block(s, block, position, &from, &to);
    for (int32_t row = from; row < to; row += ATTENTION_TILE)
        attend_rows(s, type, kv, kv_head, block, position, q, q_stride, row,
                    to - row < ATTENTION_TILE ? to - row : ATTENTION_TILE,
                    states + row * attention_state_floats(s), (float *)scratch);
}

V16 void attention_any(const attention_shape *s, int32_t type, kv_slot kv, int32_t kv_head, int32_t position,
                       int32_t nq, const float *q, int32_t q_stride, float *out, int32_t out_stride, uint8_t *scratch)
{
    int32_t group = s->n_heads / s->n_kv_heads;
    int64_t stride = attention_state_floats(s);
    float *states = (float *)scratch;
    float *next = states + ATTENTION_ROWS * stride;
    float *e = next + ATTENTION_TILE * stride;
    for (int32_t row0 = 0; row0 < nq * group; row0 += ATTENTION_ROWS) {
        int32_t row1 = row0 + ATTENTION_ROWS < nq * group ? row0 + ATTENTION_ROWS : nq * group;
        int32_t first = attention_first(s, position + row0 / group) / ATTENTION_BLOCK;
        int32_t last = (position + (row1 - 1) / group) / ATTENTION_BLOCK;
        for (int32_t block = first; block <= last; ++block) {
            int32_t from = row0, to = row1;
            rows_of_block(s, block, position, &from, &to);
            for (int32_t row = from; row < to; row += ATTENTION_TILE) {
                int32_t rows = to - row < ATTENTION_TILE ? to - row : ATTENTION_TILE;
                attend_rows(s, type, kv, kv_head, block, position, q, q_stride, row, rows, next, e);
                for (int32_t i = 0; i < rows; ++i) {
                    float *state = states + (row + i - row0) * stride;
                    if (block == attention_first(s, position + (row + i) / group) / ATTENTION_BLOCK)
                        memcpy(state, next + i * stride, sizeof(float) * (size_t)stride);
                    else
                        attention_join(s, state, next + i * stride);
                }
            }
        }
        for (int32_t row = row0; row < row1; ++row)
            attention_finish(s, states + (row - row0) * stride,
                             out + (int64_t)(row / group) * out_stride + (int64_t)(row % group) * s->head_dim_v);
    }
}

static void attention_combine(const attention_shape *s, int32_t position, int32_t nq, int32_t first_block,
                              float *states, float *out, int32_t out_stride)
{
    int32_t group = s->n_heads / s->n_kv_heads;
    int64_t stride = (int64_t)nq * group * attention_state_floats(s);
    for (int32_t row = 0; row < nq * group; ++row) {
        int32_t p = position + row / group;
        int32_t first = attention_first(s, p) / ATTENTION_BLOCK;
        float *state = states + (first - first_block) * stride + row * attention_state_floats(s);
        for (int32_t block = first + 1; block <= p / ATTENTION_BLOCK; ++block)
            attention_join(s, state, state + (block - first) * stride);
        attention_finish(s, state, out + (int64_t)(row / group) * out_stride + (int64_t)(row % group) * s->head_dim_v);
    }
}

#define ATTENTION(name, type)                                                                               \
    static void attention_##name(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t position,   \
                                 int32_t nq, const float *q, int32_t q_stride, float *out,                  \
                                 int32_t out_stride, uint8_t *scratch)                                      \
    {                                                                                                       \
        attention_any(s, type, kv, kv_head, position, nq, q, q_stride, out, out_stride, scratch);           \
    }                                                                                                       \
    static void attention_block_##name(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t block, \
                                       int32_t position, int32_t nq, const float *q, int32_t q_stride,      \
                                       float *states, uint8_t *scratch)                                     \
    {                                                                                                       \
        attention_block_any(s, type, kv, kv_head, block, position, nq, q, q_stride, states, scratch);       \
    }

ATTENTION(f32, KV_F32)
ATTENTION(f16, KV_F16)
ATTENTION(q8_0, KV_Q8_0)

/* Where K element d = 0 of head h goes: its d are 16 elements apart. */
V16 int64_t key_base(const attention_shape *s, int32_t h, int32_t at)
{
    return ((int64_t)h * ATTENTION_BLOCK + at / 16 * 16) * s->head_dim_k + at % 16;
}

static void kv_store_f32(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v)
{
    int32_t at = position % ATTENTION_BLOCK;
    const kv_page page = kv_page_of(s, kv, position / ATTENTION_BLOCK);
    for (int32_t h = 0; h < s->n_kv_heads; ++h) {
        float *keys = (float *)page.k + key_base(s, h, at);
        for (int32_t d = 0; d < s->head_dim_k; ++d)
            keys[d * 16] = k[h * s->head_dim_k + d];
        memcpy((float *)page.v + ((int64_t)h * ATTENTION_BLOCK + at) * s->head_dim_v, v + h * s->head_dim_v,
               sizeof(float) * (size_t)s->head_dim_v);
    }
}

static void kv_store_f16(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v)
{
    int32_t at = position % ATTENTION_BLOCK;
    const kv_page page = kv_page_of(s, kv, position / ATTENTION_BLOCK);
    for (int32_t h = 0; h < s->n_kv_heads; ++h) {
        uint16_t *keys = (uint16_t *)page.k + key_base(s, h, at);
        uint16_t *values = (uint16_t *)page.v + ((int64_t)h * ATTENTION_BLOCK + at) * s->head_dim_v;
        const float *key = k + h * s->head_dim_k, *value = v + h * s->head_dim_v;
        for (int32_t d = 0; d < s->head_dim_k; d += 16) {
            int32_t n = s->head_dim_k - d < 16 ? s->head_dim_k - d : 16;
            uint16_t halves[16];
            v16_store_f16(halves, n == 16 ? v16_load(key + d) : v16_load_some(key + d, n, 0.0f));
            for (int32_t i = 0; i < n; ++i)
                keys[(d + i) * 16] = halves[i];
        }
        for (int32_t d = 0; d < s->head_dim_v; d += 16) {
            int32_t n = s->head_dim_v - d < 16 ? s->head_dim_v - d : 16;
            uint16_t halves[16];
            v16_store_f16(halves, n == 16 ? v16_load(value + d) : v16_load_some(value + d, n, 0.0f));
            memcpy(values + d, halves, sizeof(uint16_t) * (size_t)n);
        }
    }
}

static void kv_store_q8_0(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v)
{
    int32_t at = position % ATTENTION_BLOCK;
    const kv_page page = kv_page_of(s, kv, position / ATTENTION_BLOCK);
    int8_t codes[HEAD_DIM_MAX];
    for (int32_t h = 0; h < s->n_kv_heads; ++h) {
        int8_t *keys = (int8_t *)page.k + key_base(s, h, at);
        page.k_scale[h * ATTENTION_BLOCK + at] = quantize_group(k + h * s->head_dim_k, s->head_dim_k, codes);
        for (int32_t d = 0; d < s->head_dim_k; ++d)
            keys[d * 16] = codes[d];
        page.v_scale[h * ATTENTION_BLOCK + at] =
            quantize_group(v + h * s->head_dim_v, s->head_dim_v,
                           (int8_t *)page.v + ((int64_t)h * ATTENTION_BLOCK + at) * s->head_dim_v);
    }
}

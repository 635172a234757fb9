/* attention.c: the KV cache and attention over it.
 *
 * For a query at position p and each block of ATTENTION_BLOCK absolute positions that holds some of
 * its range (p - window, p], the positions i of the range in the block, ascending:
 *   s[i] = (chain of fma over d ascending from 0 of q[d] * k[i][d]); q8_0: s[i] = s[i] * k_scale[i];
 *   s[i] = s[i] * scale; with a soft cap: s[i] = cap * tanh(s[i] / cap)
 *   m = max s;  e[i] = exp(s[i] - m);  l = sum of e in 16 lanes by position % 16, then the tree
 *   o[d] = chain of fma over i ascending from 0 of e[i] * v[i][d]; q8_0: (e[i] * v_scale[i]) * v[i][d]
 * Blocks join ascending; the first is taken as it is, then with M' = max(M, m), a = exp(M - M'),
 * c = exp(m - M'):  L = fma(l, c, L * a);  O = fma(o, c, O * a);  M = M'.
 * Result: O * (1 / L).
 *
 * A state is attention_state_floats(s) floats: O[head_dim_v], and in the last 16 M, L. */
typedef float (*kv_reader)(const void *elements, int64_t index);
static float read_f32(const void *elements, int64_t index) { return ((const float *)elements)[index]; }
static float read_f16(const void *elements, int64_t index) { return half_to_float(((const uint16_t *)elements)[index]); }
static float read_q8_0(const void *elements, int64_t index) { return (float)((const int8_t *)elements)[index]; }

static inline int32_t attention_first(const attention_shape *s, int32_t position)
{
    return s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
}

/* Index of K element d of the token at index `at` of a page. */
static inline int64_t k_index(const attention_shape *s, int32_t kv_head, int32_t at, int32_t d)
{
    return (((int64_t)kv_head * (ATTENTION_BLOCK / 16) + at / 16) * s->head_dim_k + d) * 16 + at % 16;
}

static inline int64_t v_index(const attention_shape *s, int32_t kv_head, int32_t at, int32_t d)
{
    return ((int64_t)kv_head * ATTENTION_BLOCK + at) * s->head_dim_v + d;
}

static void attention_block_row(const attention_shape *s, kv_slot kv, kv_reader read, int32_t kv_head,
                                int32_t block, int32_t position, const float *q, float *state, float *e)
{
    float *tail = state + attention_state_floats(s) - 16;
    int32_t first = attention_first(s, position), last = position;
    if (first < block * ATTENTION_BLOCK)
        first = block * ATTENTION_BLOCK;
    if (last > block * ATTENTION_BLOCK + ATTENTION_BLOCK - 1)
        last = block * ATTENTION_BLOCK + ATTENTION_BLOCK - 1;
    const kv_page page = kv_page_of(s, kv, block);

    float max = -__builtin_inff();
    for (int32_t i = first; i <= last; ++i) {
        int32_t at = i % ATTENTION_BLOCK;
        float score = 0.0f;
        for (int32_t d = 0; d < s->head_dim_k; ++d)
            score = fma_f32(q[d], read(page.k, k_index(s, kv_head, at, d)), score);
        if (page.k_scale)
            score = score * page.k_scale[kv_head * ATTENTION_BLOCK + at];
        score = score * s->scale;
        if (s->softcap != 0.0f)
            score = s->softcap * tanh_f32(score / s->softcap);
        max = score > max ? score : max;
        e[i - first] = score;
    }
    float lanes[16] = {0};
    for (int32_t i = first; i <= last; ++i) {
        e[i - first] = exp_f32(e[i - first] - max);
        lanes[i % 16] = lanes[i % 16] + e[i - first];
    }
    tail[0] = max;
    tail[1] = tree_sum(lanes);
    for (int32_t d = 0; d < s->head_dim_v; ++d)
        state[d] = 0.0f;
    for (int32_t i = first; i <= last; ++i) {
        int32_t at = i % ATTENTION_BLOCK;
        float weight = e[i - first];
        if (page.v_scale)
            weight = weight * page.v_scale[kv_head * ATTENTION_BLOCK + at];
        for (int32_t d = 0; d < s->head_dim_v; ++d)
            state[d] = fma_f32(weight, read(page.v, v_index(s, kv_head, at, d)), state[d]);
    }
}

static void attention_join(const attention_shape *s, float *state, const float *block)
{
    int64_t tail = attention_state_floats(s) - 16;
    float max = block[tail] > state[tail] ? block[tail] : state[tail];
    float a = exp_f32(state[tail] - max), c = exp_f32(block[tail] - max);
    state[tail] = max;
    state[tail + 1] = fma_f32(block[tail + 1], c, state[tail + 1] * a);
    for (int32_t d = 0; d < s->head_dim_v; ++d)
        state[d] = fma_f32(block[d], c, state[d] * a);
}

static void attention_finish(const attention_shape *s, const float *state, float *out)
{
    float inverse = 1.0f / state[attention_state_floats(s) - 15];
    for (int32_t d = 0; d < s->head_dim_v; ++d)
        out[d] = state[d] * inverse;
}

static void attention_block_any(const attention_shape *s, kv_slot kv, kv_reader read, int32_t kv_head,
                                int32_t block, int32_t position, int32_t nq, const float *q,
                                int32_t q_stride, float *states, uint8_t *scratch)
{
    int32_t group = s->n_heads / s->n_kv_heads;
    for (int32_t row = 0; row < nq * group; ++row) {
        int32_t p = position + row / group;
        if (attention_first(s, p) / ATTENTION_BLOCK <= block && block <= p / ATTENTION_BLOCK)
            attention_block_row(s, kv, read, kv_head, block, p,
                                q + (int64_t)(row / group) * q_stride + (int64_t)(row % group) * s->head_dim_k,
                                states + row * attention_state_floats(s), (float *)scratch);
    }
}

static void attention_any(const attention_shape *s, kv_slot kv, kv_reader read, int32_t kv_head,
                          int32_t position, int32_t nq, const float *q, int32_t q_stride,
                          float *out, int32_t out_stride, uint8_t *scratch)
{
    int32_t group = s->n_heads / s->n_kv_heads;
    float *state = (float *)scratch;
    float *next = state + attention_state_floats(s);
    float *e = next + attention_state_floats(s);
    for (int32_t row = 0; row < nq * group; ++row) {
        int32_t p = position + row / group;
        const float *query = q + (int64_t)(row / group) * q_stride + (int64_t)(row % group) * s->head_dim_k;
        int32_t first = attention_first(s, p) / ATTENTION_BLOCK;
        attention_block_row(s, kv, read, kv_head, first, p, query, state, e);
        for (int32_t block = first + 1; block <= p / ATTENTION_BLOCK; ++block) {
            attention_block_row(s, kv, read, kv_head, block, p, query, next, e);
            attention_join(s, state, next);
        }
        attention_finish(s, state, out + (int64_t)(row / group) * out_stride + (int64_t)(row % group) * s->head_dim_v);
    }
}

/* Joins the states of blocks first_block .. of the same rows, states[block][row], into out. Blocks
 * outside a row's range are not read; states are overwritten. */
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

static void attention_block_f32(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t block, int32_t position,
                                int32_t nq, const float *q, int32_t q_stride, float *states, uint8_t *scratch)
{
    attention_block_any(s, kv, read_f32, kv_head, block, position, nq, q, q_stride, states, scratch);
}

static void attention_block_f16(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t block, int32_t position,
                                int32_t nq, const float *q, int32_t q_stride, float *states, uint8_t *scratch)
{
    attention_block_any(s, kv, read_f16, kv_head, block, position, nq, q, q_stride, states, scratch);
}

static void attention_block_q8_0(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t block, int32_t position,
                                 int32_t nq, const float *q, int32_t q_stride, float *states, uint8_t *scratch)
{
    attention_block_any(s, kv, read_q8_0, kv_head, block, position, nq, q, q_stride, states, scratch);
}

static void attention_f32(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t position, int32_t nq,
                          const float *q, int32_t q_stride, float *out, int32_t out_stride, uint8_t *scratch)
{
    attention_any(s, kv, read_f32, kv_head, position, nq, q, q_stride, out, out_stride, scratch);
}

static void attention_f16(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t position, int32_t nq,
                          const float *q, int32_t q_stride, float *out, int32_t out_stride, uint8_t *scratch)
{
    attention_any(s, kv, read_f16, kv_head, position, nq, q, q_stride, out, out_stride, scratch);
}

static void attention_q8_0(const attention_shape *s, kv_slot kv, int32_t kv_head, int32_t position, int32_t nq,
                           const float *q, int32_t q_stride, float *out, int32_t out_stride, uint8_t *scratch)
{
    attention_any(s, kv, read_q8_0, kv_head, position, nq, q, q_stride, out, out_stride, scratch);
}

static void kv_store_f32(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v)
{
    int32_t at = position % ATTENTION_BLOCK;
    const kv_page page = kv_page_of(s, kv, position / ATTENTION_BLOCK);
    for (int32_t h = 0; h < s->n_kv_heads; ++h) {
        for (int32_t d = 0; d < s->head_dim_k; ++d)
            ((float *)page.k)[k_index(s, h, at, d)] = k[h * s->head_dim_k + d];
        for (int32_t d = 0; d < s->head_dim_v; ++d)
            ((float *)page.v)[v_index(s, h, at, d)] = v[h * s->head_dim_v + d];
    }
}

static void kv_store_f16(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v)
{
    int32_t at = position % ATTENTION_BLOCK;
    const kv_page page = kv_page_of(s, kv, position / ATTENTION_BLOCK);
    for (int32_t h = 0; h < s->n_kv_heads; ++h) {
        for (int32_t d = 0; d < s->head_dim_k; ++d)
            ((uint16_t *)page.k)[k_index(s, h, at, d)] = float_to_half(k[h * s->head_dim_k + d]);
        for (int32_t d = 0; d < s->head_dim_v; ++d)
            ((uint16_t *)page.v)[v_index(s, h, at, d)] = float_to_half(v[h * s->head_dim_v + d]);
    }
}

/* Codes and scale as for activations, the head being the group. */
static void kv_store_q8_0(const attention_shape *s, kv_slot kv, int32_t position, const float *k, const float *v)
{
    int32_t at = position % ATTENTION_BLOCK;
    const kv_page page = kv_page_of(s, kv, position / ATTENTION_BLOCK);
    int8_t codes[HEAD_DIM_MAX];
    for (int32_t h = 0; h < s->n_kv_heads; ++h) {
        page.k_scale[h * ATTENTION_BLOCK + at] = quantize_group(k + h * s->head_dim_k, s->head_dim_k, codes);
        for (int32_t d = 0; d < s->head_dim_k; ++d)
            ((int8_t *)page.k)[k_index(s, h, at, d)] = codes[d];
        page.v_scale[h * ATTENTION_BLOCK + at] = quantize_group(v + h * s->head_dim_v, s->head_dim_v, codes);
        for (int32_t d = 0; d < s->head_dim_v; ++d)
            ((int8_t *)page.v)[v_index(s, h, at, d)] = codes[d];
    }
}

/* forward.c: one step of the model, from tokens to logits.
 *
 * Every thread runs this text and takes what nobody else has taken yet: some rows of
 * the step, a panel, a head. A barrier stands wherever one reads what another made: it
 * lets on when all of that is done. The comment over each block is its line of graph.txt. */

/* Weights of a layer: offsets in weights.bin. `kv`: of its part in each page of its group. */
struct layer {
    int32_t number, shape;
    uint64_t kv;
    uint64_t attn_norm;
    uint64_t attn_q;
    uint64_t attn_k;
    uint64_t attn_v;
    uint64_t attn_output;
    uint64_t ffn_norm;
    uint64_t ffn_gate;
    uint64_t ffn_up;
    uint64_t ffn_down;
};

static const struct layer LAYERS[N_LAYERS] = {
    {0, 0, 0, 0x12100, 0x12500, 0x23500, 0x2bd00, 0x34500, 0x45500, 0x45900, 0x67900, 0x89900 },
    {1, 0, 131072, 0xab900, 0xabd00, 0xbcd00, 0xc5500, 0xcdd00, 0xded00, 0xdf100, 0x101100, 0x123100 },
};

/* ---- pages: a pool each group, one after the other ------------------------ */

static const struct {
    engine_page_group group;
    uint64_t at;
} PAGES[PAGE_GROUPS] = {
    { {.window = 0, .held = 1, .pages = 2, .page_bytes = 262144}, 0x0 },
};

/* ---- rotation tables ---------------------------------------------------- */

#define ROTARY_0_PAIRS 32
static const double ROTARY_0[ROTARY_0_PAIRS] = {
    0x1.0000000000000p+0, 0x1.7ff2224115d9ap-1, 0x1.1feb33c1c381ep-1, 0x1.afd1354c40d50p-2,
    0x1.43d136248490fp-2, 0x1.e5a84719edcd2p-3, 0x1.6c310e3769f3fp-3, 0x1.111aedafb9a9dp-3,
    0x1.999999999999ap-4, 0x1.33281b6744ae1p-4, 0x1.ccab8602d2697p-5, 0x1.59742aa36710dp-5,
    0x1.030dc4ea03a72p-5, 0x1.84869f47f170fp-6, 0x1.235a71c5ee5ccp-6, 0x1.b4f7e2b2c2a95p-7,
    0x1.47ae147ae147bp-7, 0x1.eb735f0ba1168p-8, 0x1.7089380241edfp-8, 0x1.145ceee91f40bp-8,
    0x1.9e7c6e43390b7p-9, 0x1.36d219065ac0cp-9, 0x1.d22a4fa316facp-10, 0x1.5d931bc235544p-10,
    0x1.0624dd2f1a9fcp-10, 0x1.892918d61a787p-11, 0x1.26d42cce9b24cp-11, 0x1.ba2e4b0e98677p-12,
    0x1.4b96be9c2da2cp-12, 0x1.f150280a2ace0p-13, 0x1.74eea61c12623p-13, 0x1.17a8e301c4436p-13,
};
#define ROTARY_0_AT (0)
#define ROTARY_FLOATS ((uint64_t)CONTEXT * 2 * ROTARY_0_PAIRS + 0)
#define ROTARY_BYTES (ROTARY_FLOATS * sizeof(float))

static void build_rotary(float *tables)
{
    (void)tables;
    rotary_table(ROTARY_0, ROTARY_0_PAIRS, 1.0, tables + ROTARY_0_AT);
}

/* ---- attention's geometry, a layer shape each ---------------------------- */

static const attention_shape SHAPE_0 = {
    .head_dim_k = 64, .head_dim_v = 64, .n_heads = 4, .n_kv_heads = 2,
    .window = 0, .scale = 0x1.0000000000000p-3f, .softcap = 0.0f,
    .page_stride = 262144, .v_at = 65536,
};
static inline kv_slot kv_of_shape_0(const engine *e, const struct layer *L, int32_t slot)
{
    const int32_t group = 0;
    return (kv_slot){e->kv + PAGES[group].at + L->kv, e->pages + (slot * PAGE_GROUPS + group) * PAGE_BLOCKS};
}

/* A thread's scratch: what the kernels use, then the panel sums of a tile of tokens, twice. */
static inline uint64_t kernel_scratch(void)
{
    uint64_t bytes = PANEL_SCRATCH;
    if ((uint64_t)attention_scratch_bytes(&SHAPE_0) > bytes)
        bytes = (uint64_t)attention_scratch_bytes(&SHAPE_0);
    return (bytes + 63) / 64 * 64;
}

/* ---- values -----------------------------------------------------------------
 * %n of graph.txt is Xn; layers that share their text share the names of the first. */

#define X0           AT(0x10000)    /* f32[T,256]: embed */
#define X1           AT(0x0)        /* f32[T,256]: rms_norm */
#define X2_CODES     AT(0x18000)    /* q32[T,256]: quantize */
#define X2_SCALES    AT(0x1a000)    /* q32[T,256]: quantize */
#define X2_SUMS      AT(0x1a400)    /* q32[T,256]: quantize */
#define X3           AT(0x0)        /* f32[T,512]: linear attn_q+attn_k+attn_v */
#define X4           AT(0x0)        /* f32[T,256], stride 512: of %3 */
#define X5           AT(0x400)      /* f32[T,128], stride 512: of %3 */
#define X6           AT(0x600)      /* f32[T,128], stride 512: of %3 */
#define X7           AT(0x0)        /* f32[T,256], stride 512: rope */
#define X8           AT(0x400)      /* f32[T,128], stride 512: rope */
#define X10          AT(0x18000)    /* f32[T,256]: attention */
#define X11_CODES    AT(0x0)        /* q32[T,256]: quantize */
#define X11_SCALES   AT(0x2000)     /* q32[T,256]: quantize */
#define X11_SUMS     AT(0x2400)     /* q32[T,256]: quantize */
#define X12          AT(0x10000)    /* f32[T,256]: linear attn_output */
#define X13          AT(0x0)        /* f32[T,256]: rms_norm */
#define X14_CODES    AT(0x18000)    /* q32[T,256]: quantize */
#define X14_SCALES   AT(0x1a000)    /* q32[T,256]: quantize */
#define X14_SUMS     AT(0x1a400)    /* q32[T,256]: quantize */
#define X15          AT(0x0)        /* f32[T,512]: linear_glu ffn_gate+ffn_up */
#define X16_CODES    AT(0x18000)    /* q32[T,512]: quantize */
#define X16_SCALES   AT(0x1c000)    /* q32[T,512]: quantize */
#define X16_SUMS     AT(0x1c800)    /* q32[T,512]: quantize */
#define X17          AT(0x10000)    /* f32[T,256]: linear ffn_down */
#define X34          AT(0x10000)    /* f32[T,256]: linear ffn_down */
#define X35          AT(0x0)        /* f32[W,256]: select */
#define X36          AT(0x0)        /* f32[W,256]: rms_norm */
#define X37_CODES    AT(0x8000)     /* q32[W,256]: quantize */
#define X37_SCALES   AT(0xa000)     /* q32[W,256]: quantize */
#define X37_SUMS     AT(0xa400)     /* q32[W,256]: quantize */

/* ---- projections ---------------------------------------------------------- */

/* q8_0 [256 x 256], q8_0 [128 x 256], q8_0 [128 x 256] -> f32 [n x 512] */
static void linear_attn_q_attn_k_attn_v(engine *e, int32_t thread, const activations *a, const uint8_t *const *w, const float *const *b,
                     const float *residual, float *out)
{
    float *sums = sums_of(e, thread);
    uint8_t *scratch = scratch_of(e, thread);
    (void)b, (void)residual;
    for (int32_t unit; (unit = threadpool_next(e->pool, thread, 32)) >= 0;) {
        if (unit < 16) { /* q8_0 [256 x 256] */
            const int32_t panel = unit;
            const int32_t column = panel * PANEL_ROWS, rows = smaller(256 - column, PANEL_ROWS);
            for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
                const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE);
                panel_q8_0_k256(w[0] + (int64_t)panel * 4352, a, t, count, sums, scratch);
                store_panel(sums, count, rows, NULL, NULL, 0,
                            out + (int64_t)t * 512 + column, 512);
            }
        } else if (unit < 24) { /* q8_0 [128 x 256] */
            const int32_t panel = unit - 16;
            const int32_t column = panel * PANEL_ROWS, rows = smaller(128 - column, PANEL_ROWS);
            for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
                const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE);
                panel_q8_0_k256(w[1] + (int64_t)panel * 4352, a, t, count, sums, scratch);
                store_panel(sums, count, rows, NULL, NULL, 0,
                            out + (int64_t)t * 512 + 256 + column, 512);
            }
        } else { /* q8_0 [128 x 256] */
            const int32_t panel = unit - 24;
            const int32_t column = panel * PANEL_ROWS, rows = smaller(128 - column, PANEL_ROWS);
            for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
                const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE);
                panel_q8_0_k256(w[2] + (int64_t)panel * 4352, a, t, count, sums, scratch);
                store_panel(sums, count, rows, NULL, NULL, 0,
                            out + (int64_t)t * 512 + 384 + column, 512);
            }
        }
    }
}

/* q8_0 [256 x 256] -> f32 [n x 256], residual added */
static void linear_attn_output(engine *e, int32_t thread, const activations *a, const uint8_t *const *w, const float *const *b,
                     const float *residual, float *out)
{
    float *sums = sums_of(e, thread);
    uint8_t *scratch = scratch_of(e, thread);
    (void)b, (void)residual;
    for (int32_t unit; (unit = threadpool_next(e->pool, thread, 16)) >= 0;) {
        const int32_t panel = unit;
        const int32_t column = panel * PANEL_ROWS, rows = smaller(256 - column, PANEL_ROWS);
        for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
            const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE);
            panel_q8_0_k256(w[0] + (int64_t)panel * 4352, a, t, count, sums, scratch);
            store_panel(sums, count, rows, NULL, residual + (int64_t)t * 256 + column, 256,
                        out + (int64_t)t * 256 + column, 256);
        }
    }
}

/* silu(q8_0 [512 x 256]) * (q8_0 [512 x 256]) -> f32 [n x 512] */
static void linear_glu_ffn_gate_ffn_up(engine *e, int32_t thread, const activations *a, const uint8_t *const *w, const float *const *b, float *out)
{
    float *gates = sums_of(e, thread), *ups = gates + TOKEN_TILE * PANEL_ROWS;
    uint8_t *scratch = scratch_of(e, thread);
    /* With few tokens several panels of one matrix are read in a row, so that the stream seldom jumps. */
    const int32_t together = a->n_tokens * GLU_PANELS <= TOKEN_TILE ? GLU_PANELS : 1;
    const int32_t units = (32 + together - 1) / together;
    (void)b;
    for (int32_t unit; (unit = threadpool_next(e->pool, thread, units)) >= 0;) {
        const int32_t first = unit * together, end = smaller(first + together, 32);
        for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
            const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE), size = count * PANEL_ROWS;
            for (int32_t panel = first; panel < end; panel++)
                panel_q8_0_k256(w[0] + (int64_t)panel * 4352, a, t, count, gates + (panel - first) * size, scratch);
            for (int32_t panel = first; panel < end; panel++)
                panel_q8_0_k256(w[1] + (int64_t)panel * 4352, a, t, count, ups + (panel - first) * size, scratch);
            glu_silu(gates, ups, (end - first) * size, gates);
            for (int32_t panel = first; panel < end; panel++)
                store_panel(gates + (panel - first) * size, count, smaller(512 - panel * PANEL_ROWS, PANEL_ROWS),
                            NULL, NULL, 0, out + (int64_t)t * 512 + panel * PANEL_ROWS, 512);
        }
    }
}

/* q8_0 [256 x 512] -> f32 [n x 256], residual added */
static void linear_ffn_down(engine *e, int32_t thread, const activations *a, const uint8_t *const *w, const float *const *b,
                     const float *residual, float *out)
{
    float *sums = sums_of(e, thread);
    uint8_t *scratch = scratch_of(e, thread);
    (void)b, (void)residual;
    for (int32_t unit; (unit = threadpool_next(e->pool, thread, 16)) >= 0;) {
        const int32_t panel = unit;
        const int32_t column = panel * PANEL_ROWS, rows = smaller(256 - column, PANEL_ROWS);
        for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
            const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE);
            panel_q8_0_k512(w[0] + (int64_t)panel * 8704, a, t, count, sums, scratch);
            store_panel(sums, count, rows, NULL, residual + (int64_t)t * 256 + column, 256,
                        out + (int64_t)t * 256 + column, 256);
        }
    }
}

/* q8_0 [272 x 256] -> f32 [n x 272] */
static void linear_token_embd(engine *e, int32_t thread, const activations *a, const uint8_t *const *w, const float *const *b,
                     const float *residual, float *out)
{
    float *sums = sums_of(e, thread);
    uint8_t *scratch = scratch_of(e, thread);
    (void)b, (void)residual;
    for (int32_t unit; (unit = threadpool_next(e->pool, thread, 17)) >= 0;) {
        const int32_t panel = unit;
        const int32_t column = panel * PANEL_ROWS, rows = smaller(272 - column, PANEL_ROWS);
        for (int32_t t = 0; t < a->n_tokens; t += TOKEN_TILE) {
            const int32_t count = smaller(a->n_tokens - t, TOKEN_TILE);
            panel_q8_0_k256(w[0] + (int64_t)panel * 4352, a, t, count, sums, scratch);
            store_panel(sums, count, rows, NULL, NULL, 0,
                        out + (int64_t)t * 272 + column, 272);
        }
    }
}

/* ---- layers --------------------------------------------------------------- */

/* Layers 0, 1. */
static void layer_shape_0(engine *e, int32_t thread, const struct layer *L)
{

    for (span tokens; next_rows(e, thread, e->n, &tokens);) {
        /* %1: f32[T,256] = rms_norm(%0; attn_norm.weight) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            rms_norm(X0 + (int64_t)t * 256, VECTOR(L->attn_norm), 256, 0x1.4f8b580000000p-17f,
                     X1 + (int64_t)t * 256);
        TIMED(OP_RMS_NORM);
        CHECK(OP_RMS_NORM, L->number, X1, e->n, 256, 256);

        /* %2: q32[T,256] = quantize(%1) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            quantize_row_32(X1 + (int64_t)t * 256, 256, t, e->n,
                             (int8_t *)X2_CODES, X2_SCALES, (int16_t *)X2_SUMS);
        TIMED(OP_QUANTIZE);
    }

    barrier(e, thread);

    /* %3: f32[T,512] = linear(%2; attn_q.weight, attn_k.weight, attn_v.weight) */
    {
        const activations a = {e->n, NULL, (int8_t *)X2_CODES, X2_SCALES, (int16_t *)X2_SUMS};
        const uint8_t *const w[] = {MATRIX(L->attn_q), MATRIX(L->attn_k), MATRIX(L->attn_v)};
        linear_attn_q_attn_k_attn_v(e, thread, &a, w, NULL, NULL, X3);
    }
    TIMED(OP_LINEAR_ATTN_Q_ATTN_K_ATTN_V);
    CHECK(OP_LINEAR_ATTN_Q_ATTN_K_ATTN_V, L->number, X3, e->n, 512, 512);

    barrier(e, thread);

    for (span tokens; next_rows(e, thread, e->n, &tokens);) {
        /* %7: f32[T,256] = rope(%4; rope.0) */
        for (int32_t t = tokens.first; t < tokens.end; t++) {
            for (int32_t h = 0; h < 4; h++)
                rope_row(X7 + (int64_t)t * 512 + h * 64, 2 * ROTARY_0_PAIRS,
                         e->rotary + ROTARY_0_AT + (int64_t)e->position[t] * 2 * ROTARY_0_PAIRS, 0 /* norm */);
        }
        TIMED(OP_ROPE);
        CHECK(OP_ROPE, L->number, X7, e->n, 256, 512);

        /* %8: f32[T,128] = rope(%5; rope.0) */
        for (int32_t t = tokens.first; t < tokens.end; t++) {
            for (int32_t h = 0; h < 2; h++)
                rope_row(X8 + (int64_t)t * 512 + h * 64, 2 * ROTARY_0_PAIRS,
                         e->rotary + ROTARY_0_AT + (int64_t)e->position[t] * 2 * ROTARY_0_PAIRS, 0 /* norm */);
        }
        TIMED(OP_ROPE);
        CHECK(OP_ROPE, L->number, X8, e->n, 128, 512);

        /* %9: kv[T,1] = kv_store(%8, %6) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            kv_store_f16(&SHAPE_0, kv_of_shape_0(e, L, e->slot[t]), e->position[t],
                         X8 + (int64_t)t * 512, X6 + (int64_t)t * 512);
        TIMED(OP_KV_STORE);
    }

    barrier(e, thread);

    /* %10: f32[T,256] = attention(%7, %9) */
    for (int32_t unit; (unit = threadpool_next(e->pool, thread, e->n_tiles * 2)) >= 0;) {
        const sequence q = e->tiles[unit % e->n_tiles];
        const int32_t head = unit / e->n_tiles;
        attention_f16(&SHAPE_0, kv_of_shape_0(e, L, q.slot), head, q.position, q.count,
                      X7 + (int64_t)q.first * 512 + head * 128, 512,
                      X10 + (int64_t)q.first * 256 + head * 128, 256, scratch_of(e, thread));
    }
    TIMED(OP_ATTENTION);
    CHECK(OP_ATTENTION, L->number, X10, e->n, 256, 256);

    barrier(e, thread);

    for (span tokens; next_rows(e, thread, e->n, &tokens);) {
        /* %11: q32[T,256] = quantize(%10) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            quantize_row_32(X10 + (int64_t)t * 256, 256, t, e->n,
                             (int8_t *)X11_CODES, X11_SCALES, (int16_t *)X11_SUMS);
        TIMED(OP_QUANTIZE);
    }

    barrier(e, thread);

    /* %12: f32[T,256] = linear(%11, %0; attn_output.weight) */
    {
        const activations a = {e->n, NULL, (int8_t *)X11_CODES, X11_SCALES, (int16_t *)X11_SUMS};
        const uint8_t *const w[] = {MATRIX(L->attn_output)};
        linear_attn_output(e, thread, &a, w, NULL, X0, X12);
    }
    TIMED(OP_LINEAR_ATTN_OUTPUT);
    CHECK(OP_LINEAR_ATTN_OUTPUT, L->number, X12, e->n, 256, 256);

    barrier(e, thread);

    for (span tokens; next_rows(e, thread, e->n, &tokens);) {
        /* %13: f32[T,256] = rms_norm(%12; ffn_norm.weight) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            rms_norm(X12 + (int64_t)t * 256, VECTOR(L->ffn_norm), 256, 0x1.4f8b580000000p-17f,
                     X13 + (int64_t)t * 256);
        TIMED(OP_RMS_NORM);
        CHECK(OP_RMS_NORM, L->number, X13, e->n, 256, 256);

        /* %14: q32[T,256] = quantize(%13) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            quantize_row_32(X13 + (int64_t)t * 256, 256, t, e->n,
                             (int8_t *)X14_CODES, X14_SCALES, (int16_t *)X14_SUMS);
        TIMED(OP_QUANTIZE);
    }

    barrier(e, thread);

    /* %15: f32[T,512] = linear_glu(%14; ffn_gate.weight, ffn_up.weight) */
    {
        const activations a = {e->n, NULL, (int8_t *)X14_CODES, X14_SCALES, (int16_t *)X14_SUMS};
        const uint8_t *const w[] = {MATRIX(L->ffn_gate), MATRIX(L->ffn_up)};
        linear_glu_ffn_gate_ffn_up(e, thread, &a, w, NULL, X15);
    }
    TIMED(OP_LINEAR_GLU_FFN_GATE_FFN_UP);
    CHECK(OP_LINEAR_GLU_FFN_GATE_FFN_UP, L->number, X15, e->n, 512, 512);

    barrier(e, thread);

    for (span tokens; next_rows(e, thread, e->n, &tokens);) {
        /* %16: q32[T,512] = quantize(%15) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            quantize_row_32(X15 + (int64_t)t * 512, 512, t, e->n,
                             (int8_t *)X16_CODES, X16_SCALES, (int16_t *)X16_SUMS);
        TIMED(OP_QUANTIZE);
    }

    barrier(e, thread);

    /* %17: f32[T,256] = linear(%16, %12; ffn_down.weight) */
    {
        const activations a = {e->n, NULL, (int8_t *)X16_CODES, X16_SCALES, (int16_t *)X16_SUMS};
        const uint8_t *const w[] = {MATRIX(L->ffn_down)};
        linear_ffn_down(e, thread, &a, w, NULL, X12, X17);
    }
    TIMED(OP_LINEAR_FFN_DOWN);
    CHECK(OP_LINEAR_FFN_DOWN, L->number, X17, e->n, 256, 256);
}

/* ---- the step --------------------------------------------------------------- */

static void forward(void *arg, int32_t thread)
{
    engine *e = arg;
#if OP_TIMING
    if (thread == 0)
        e->mark = now_ns();
#endif

    for (span tokens; next_rows(e, thread, e->n, &tokens);) {
        /* %0: f32[T,256] = embed(; token_embd.weight) */
        for (int32_t t = tokens.first; t < tokens.end; t++)
            dequantize_row_q8_0(MATRIX(0x0), e->token[t], 256, X0 + (int64_t)t * 256);
        TIMED(OP_EMBED);
        CHECK(OP_EMBED, -1, X0, e->n, 256, 256);
    }

    for (const struct layer *L = LAYERS; L < LAYERS + N_LAYERS; L++) {
        barrier(e, thread);
        switch (L->shape) {
        case 0: layer_shape_0(e, thread, L); break;
        }
    }
    barrier(e, thread);

    for (span wanted; next_rows(e, thread, e->n_want, &wanted);) {
        /* %35: f32[W,256] = select(%34) */
        for (int32_t t = wanted.first; t < wanted.end; t++)
            copy_row(X34 + (int64_t)e->wanted[t] * 256, 256, X35 + (int64_t)t * 256);
        TIMED(OP_SELECT);
        CHECK(OP_SELECT, -1, X35, e->n_want, 256, 256);

        /* %36: f32[W,256] = rms_norm(%35; output_norm.weight) */
        for (int32_t t = wanted.first; t < wanted.end; t++)
            rms_norm(X35 + (int64_t)t * 256, VECTOR(0x145100), 256, 0x1.4f8b580000000p-17f,
                     X36 + (int64_t)t * 256);
        TIMED(OP_RMS_NORM);
        CHECK(OP_RMS_NORM, -1, X36, e->n_want, 256, 256);

        /* %37: q32[W,256] = quantize(%36) */
        for (int32_t t = wanted.first; t < wanted.end; t++)
            quantize_row_32(X36 + (int64_t)t * 256, 256, t, e->n_want,
                             (int8_t *)X37_CODES, X37_SCALES, (int16_t *)X37_SUMS);
        TIMED(OP_QUANTIZE);
    }

    barrier(e, thread);

    /* %38: f32[W,272] = linear(%37; token_embd.weight) */
    {
        const activations a = {e->n_want, NULL, (int8_t *)X37_CODES, X37_SCALES, (int16_t *)X37_SUMS};
        const uint8_t *const w[] = {MATRIX(0x0)};
        linear_token_embd(e, thread, &a, w, NULL, NULL, e->logits);
    }
    TIMED(OP_LINEAR_TOKEN_EMBD);
    CHECK(OP_LINEAR_TOKEN_EMBD, -1, e->logits, e->n_want, 272, 272);
    barrier(e, thread);
}

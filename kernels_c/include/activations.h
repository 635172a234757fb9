/* activations.h: what the kernels take: quantized activations, the geometry of
 * the KV cache, and the sizes that callers allocate. */
#ifndef ACTIVATIONS_H
#define ACTIVATIONS_H
#include <stddef.h>
#include <stdint.h>

/* int16 sums of one token's codes, per group.
 *
 * Group of 256: 72 values in three planes,
 *   [0..8)     sum of each 32 codes                                (Q4_K minima)
 *   [8..40)    for each 16 codes, -32 times the sum of those with k % 4 < 2, and
 *              of those with k % 4 >= 2                            (Q6_K offset, int16 sums)
 *   [40..72)   16 int32: -32 times the sum of each 16 codes        (Q6_K offset, int32 sums)
 * Group of 32: 4 values in two planes,
 *   [0..2)     the sums of the codes with k % 4 < 2 and with k % 4 >= 2   (offsets in int16 sums; minima meet both)
 *   [2..4)     one int32: -128 times the sum of all                       (offsets in int32 sums) */
#define ACTIVATION_SUMS_256 72
#define ACTIVATION_SUMS_32 4
#define SUMS_OF_32 0
#define SUMS_OF_PAIRS 8
#define SUMS_OF_16 40
#define SUMS_TIMES_128 2
_Static_assert(8 * 127 * 32 <= INT16_MAX, "eight products with an offset of 32 fit in int16");

/* A scale of a group of 32, rounded to the 11 significant bits of fp16 (half to even; fp16's
 * range does not apply). Files of Q8_0 and their other readers round scales so: the same
 * codes then meet the same scale, and results stay comparable to the last bits. */
static inline float scale_of_32(float scale)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu;
    __builtin_memcpy(&scale, &bits, sizeof bits);
    return scale;
}

typedef struct {
    int32_t n_tokens;      /* stride of the token dimension below */
    const float *x;        /* [n_tokens][k], for float weights; NULL if unused */
    const int8_t *codes;   /* [k/group][n_tokens][group] */
    const float *scales;   /* [k/group][n_tokens] */
    const int16_t *sums;   /* [k/group][n_tokens][ACTIVATION_SUMS_<group>] */
} activations;

/* Bytes of scratch that a panel kernel may use, 64-byte aligned, private to the thread. */
#define PANEL_SCRATCH 24576

/* Attention works on blocks of this many absolute positions, combined ascending. */
#define ATTENTION_BLOCK 256

/* Longest head that the cache takes. */
#define HEAD_DIM_MAX 1024

typedef struct {
    int32_t head_dim_k, head_dim_v, n_heads, n_kv_heads;
    int32_t window;        /* 0: all positions; else the last `window`, the token's own included */
    float scale;           /* of q.k */
    float softcap;         /* 0: none */
    int64_t page_stride;   /* bytes from a page to the next */
    int64_t v_at;          /* bytes from the layer's part of a page to its V */
    int64_t k_scale_at, v_scale_at;   /* likewise its scales; 0: it has none */
} attention_shape;

/* One layer of one slot: position p is at index p % ATTENTION_BLOCK of page pages[p / ATTENTION_BLOCK]. */
typedef struct {
    uint8_t *pool;             /* the layer's part of page 0 */
    const int32_t *pages;      /* by block of the slot's positions; what is not held is never read */
} kv_slot;

/* One layer of one page. K is [kv_head][ATTENTION_BLOCK / 16][head_dim_k][16], V is
 * [kv_head][ATTENTION_BLOCK][head_dim_v]; scales (q8_0 only) are [kv_head][ATTENTION_BLOCK]. */
typedef struct {
    void *k, *v;
    float *k_scale, *v_scale;
} kv_page;

static inline kv_page kv_page_of(const attention_shape *s, kv_slot kv, int32_t block)
{
    uint8_t *at = kv.pool + kv.pages[block] * s->page_stride;
    return (kv_page){at, at + s->v_at, s->k_scale_at ? (float *)(at + s->k_scale_at) : NULL,
                     s->v_scale_at ? (float *)(at + s->v_scale_at) : NULL};
}

/* (token, head) rows that attention carries through the cache together. */
#define ATTENTION_ROWS 64
/* Of those, rows whose scores exist at a time. */
#define ATTENTION_TILE 6

/* Bytes of one row's state between blocks: [head_dim_v] weighted sum of V (padded to 16), maximum, sum. */
static inline int64_t attention_state_floats(const attention_shape *s)
{
    return ((int64_t)s->head_dim_v + 15) / 16 * 16 + 16;
}

/* Scratch of attention_*: states of ATTENTION_ROWS rows, one row of a block, scores of a tile. */
static inline int64_t attention_scratch_bytes(const attention_shape *s)
{
    return (int64_t)sizeof(float) * ((ATTENTION_ROWS + ATTENTION_TILE) * attention_state_floats(s)
                                     + ATTENTION_TILE * ATTENTION_BLOCK);
}
#endif

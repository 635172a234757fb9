/* blocks_amx.c: what the walks over tiles share (panel_amx_256.c.j2, panel_amx_32.c.j2).
 *
 * A walk has three parts, kept apart: weights become digits (bytes whose products with activations are
 * exact), tiles multiply them, rows of sums come out and take the float step. The sums of a tile are
 * written to one of two buffers; while the next tile is multiplied, the vector units take out the rows
 * of the one before and prepare the digits of the next block. */

/* A block of 256 k as two digits of 64 chunks. */
typedef struct {
    uint8_t low[64][64], high[64][64];
} amx_digits;

/* Digits of this block and the next, sums of this pair of tiles and the one before:
 * [pair][tile of tokens][low, high]. With the sums of 256 tokens they fit in an L1 of 48 KB. */
typedef struct {
    amx_digits digits[2];
    int32_t sums[2][2][2][TILE_TOKENS][16];
} amx_scratch_256;

/* Blocks of 32 k that are multiplied together, a tile of sums each. */
#define AMX_BLOCKS 4
typedef struct {
    int8_t codes[AMX_BLOCKS][8][64];
    int32_t sums[2][AMX_BLOCKS][TILE_TOKENS][16];
} amx_scratch_32;
_Static_assert(sizeof(amx_scratch_256) <= PANEL_SCRATCH && sizeof(amx_scratch_32) <= PANEL_SCRATCH, "tiles fit in scratch");

/* A tile of tokens: the first, and how many of its rows an earlier tile has done. The last tile of a
 * panel ends at the last token, so that no tile reads codes that are not there. */
typedef struct {
    int32_t first, skip;
} amx_tile;

V16 amx_tile amx_tile_at(int32_t t, int32_t nt)
{
    return t + TILE_TOKENS <= nt ? (amx_tile){t, 0} : (amx_tile){nt - TILE_TOKENS, t + TILE_TOKENS - nt};
}

/* acc[t] = fma(d * da[t], float(sum[t]), acc[t]), blocks ascending, for tokens from .. to-1 of a tile and
 * `count` blocks from b on. d: of each block; sums: [block][token]; scales: of block b's first token. */
V16 void amx_rows_out_32(const __m512 *d, int32_t count, const int32_t (*sums)[TILE_TOKENS][16], int32_t from, int32_t to,
                         const float *scales, int64_t n_tokens, float *acc)
{
    for (int32_t t = from; t < to; ++t) {
        __m512 sum = v16_load(acc + t * 16);
#pragma GCC unroll 4
        for (int32_t j = 0; j < AMX_BLOCKS; ++j)
            if (j < count)
                sum = _mm512_fmadd_ps(_mm512_mul_ps(d[j], _mm512_set1_ps(scales[j * n_tokens + t])),
                                      _mm512_cvtepi32_ps(load_512(sums[j][t])), sum);
        v16_store(acc + t * 16, sum);
    }
}

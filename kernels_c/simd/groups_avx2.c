/* groups_avx2.c: superblocks of 256 k whose 16 groups of 16 k are multiplied and scaled one like the other.
 *
 * A group is four chunks: eight products of unsigned codes to an int16 lane, which the group's scale
 * multiplies and widens to int32. A format's file says why its eight products fit, and is a constant
 * groups_format, whose functions are inlined into the walk. */
#define GROUPS_TILE 4        /* tokens */

typedef struct {
    int16_t scale[16][2][16];     /* [group][half]: (s, s) a row */
    int16_t min[16][2][16];       /* [as the format has them][half]: a pair a row */
    float d[16], minus_dmin[16];
} groups_head;

/* One block, expanded for use by many tokens. */
typedef struct {
    groups_head head;
    uint8_t q[16][4][64];         /* [group][chunk] */
} groups_block;
_Static_assert(sizeof(groups_block) <= PANEL_SCRATCH, "a block of 16 groups fits in scratch");

/* open   scales, minima and factors of block b;
 * codes  the eight chunks of groups 2j, 2j+1 of block b, rows 8*half .. +7;
 * start  what the int16 sums of a group begin with; sums: its pair of SUMS_OF_PAIRS;
 * add    the float step of a block for one token; products: the int32 sums of rows 8*half .. +7;
 * bytes  of a block, on average, for prefetches. */
typedef struct {
    void (*open)(const uint8_t *panel, int32_t b, groups_head *head);
    void (*codes)(const uint8_t *panel, int32_t b, int32_t j, int32_t half, __m256i q[8]);
    __m256i (*start)(const int16_t *sums);
    void (*add)(const groups_head *head, int32_t half, float da, __m256i products, const int16_t *sums, float *acc);
    int64_t bytes;
} groups_format;

/* (code >> shift) & mask in every byte; shift and mask are constants. */
V16 __m256i byte_field(__m256i bytes, int32_t shift, int32_t mask)
{
    return _mm256_and_si256(shift ? _mm256_srli_epi16(bytes, shift) : bytes, _mm256_set1_epi8((char)mask));
}

/* low | (bytes shifted left, or right where `left` is negative) & mask: joins the parts of a code. */
V16 __m256i byte_join(__m256i low, __m256i bytes, int32_t left, int32_t mask)
{
    __m256i shifted = left > 0   ? _mm256_slli_epi16(bytes, left)
                      : left < 0 ? _mm256_srli_epi16(bytes, -left)
                                 : bytes;
    return _mm256_or_si256(low, _mm256_and_si256(shifted, _mm256_set1_epi8((char)mask)));
}

/* Scales and minima of sub-blocks 2j, 2j+1 of 16 rows, as bytes; low, high: as in packed_q4_k.h. */
V16 void scales_of_6(const uint8_t (*low)[16], const uint8_t (*high)[16], int32_t j, __m256i *scale, __m256i *min)
{
    __m256i lower = load_256(low[2 * j]), upper = load_256(high[2 * j % 4]);
    __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    __m256i scale_top = j < 2 ? _mm256_slli_epi16(upper, 4) : _mm256_slli_epi16(upper, 2);
    __m256i min_top = j < 2 ? upper : _mm256_srli_epi16(upper, 2);
    *scale = _mm256_or_si256(_mm256_and_si256(lower, nibble), _mm256_and_si256(scale_top, top));
    *min = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(lower, 4), nibble), _mm256_and_si256(min_top, top));
}

V16 __m256i start_at_zero(const int16_t *sums)
{
    (void)sums;
    return _mm256_setzero_si256();
}

/* acc[half] = fma(da, fma(-dmin, M, d * I), acc) */
V16 void add_with_minima(const groups_head *head, int32_t half, float da, __m256i products, __m256i minima, float *acc)
{
    __m256 term = _mm256_mul_ps(_mm256_loadu_ps(head->d + 8 * half), _mm256_cvtepi32_ps(products));
    term = _mm256_fmadd_ps(_mm256_loadu_ps(head->minus_dmin + 8 * half), _mm256_cvtepi32_ps(minima), term);
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(_mm256_set1_ps(da), term, _mm256_loadu_ps(acc + 8 * half)));
}

/* The factors of a block: 16 d, 16 dmin. */
V16 void open_factors(const uint16_t *d, const uint16_t *dmin, groups_head *head)
{
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half) {
        _mm256_storeu_ps(head->d + 8 * half, half_scales(d, half));
        _mm256_storeu_ps(head->minus_dmin + 8 * half, _mm256_xor_ps(half_scales(dmin, half), _mm256_set1_ps(-0.0f)));
    }
}

/* A tile of `tokens` tokens (a constant) over an expanded block. codes, sums, scales, acc: of its first
 * token. next: the block to fetch meanwhile, or NULL. */
V16 void groups_tile(const groups_format *f, const groups_block *b, int32_t tokens, const int8_t *codes, const int16_t *sums,
                     const float *scales, float *acc, const uint8_t *next)
{
    __m256i total[GROUPS_TILE][2];
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t g = 0; g < 16; ++g) {
        if (next)
            fetch_bytes(next + g * f->bytes / 16, f->bytes / 16);
        __m256i part[GROUPS_TILE][2];
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t)
            part[t][0] = part[t][1] = f->start(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_PAIRS + 2 * g);
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c) {
            __m256i w0 = load_256(b->q[g][c]), w1 = load_256(b->q[g][c] + 32);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i x = broadcast_4(codes + t * 256 + g * 16 + c * 4);
                part[t][0] = _mm256_add_epi16(part[t][0], _mm256_maddubs_epi16(w0, x));
                part[t][1] = _mm256_add_epi16(part[t][1], _mm256_maddubs_epi16(w1, x));
                KEEP(part[t][0]);
                KEEP(part[t][1]);
            }
        }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i scale = load_256(b->head.scale[g][half]);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t)
                total[t][half] = _mm256_add_epi32(total[t][half], _mm256_madd_epi16(part[t][half], scale));
        }
    }
#pragma GCC unroll 4
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            f->add(&b->head, half, scales[t], total[t][half], sums + t * ACTIVATION_SUMS_256, acc + t * 16);
}

/* Block b straight from the panel, for `tokens` (a constant, 1 or 2) tokens. */
V16 void groups_direct(const groups_format *f, const uint8_t *panel, int32_t b, const groups_head *head, int32_t tokens,
                       const int8_t *codes, const int16_t *sums, const float *scales, float *acc)
{
    const uint8_t *ahead = panel + b * f->bytes + PREFETCH_AHEAD;
    __m256i total[2][2];
#pragma GCC unroll 2
    for (int32_t t = 0; t < tokens; ++t)
        total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int32_t j = 0; j < 8; ++j) {
        fetch_bytes(ahead + j * f->bytes / 8, f->bytes / 8);
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i q[8];
            f->codes(panel, b, j, half, q);
#pragma GCC unroll 2
            for (int32_t i = 0; i < 2; ++i) {
                __m256i scale = load_256(head->scale[2 * j + i][half]);
#pragma GCC unroll 2
                for (int32_t t = 0; t < tokens; ++t) {
                    __m256i part = f->start(sums + t * ACTIVATION_SUMS_256 + SUMS_OF_PAIRS + 4 * j + 2 * i);
                    const int8_t *x = codes + t * 256 + j * 32 + i * 16;
#pragma GCC unroll 4
                    for (int32_t c = 0; c < 4; ++c)
                        part = _mm256_add_epi16(part, _mm256_maddubs_epi16(q[4 * i + c], broadcast_4(x + 4 * c)));
                    total[t][half] = _mm256_add_epi32(total[t][half], _mm256_madd_epi16(part, scale));
                }
            }
        }
    }
#pragma GCC unroll 2
    for (int32_t t = 0; t < tokens; ++t)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half)
            f->add(head, half, scales[t], total[t][half], sums + t * ACTIVATION_SUMS_256, acc + t * 16);
}

V16 void groups_panel(const groups_format *f, const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                      float *acc, uint8_t *scratch)
{
    groups_block *expanded = (groups_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t b = 0; b < k / 256; ++b) {
        int64_t at = (int64_t)b * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 256;
        const int16_t *sums = a->sums + at * ACTIVATION_SUMS_256;
        const float *scales = a->scales + at;
        f->open(panel, b, &expanded->head);
        if (nt == 1) {
            groups_direct(f, panel, b, &expanded->head, 1, codes, sums, scales, acc);
            continue;
        }
        if (nt == 2) {
            groups_direct(f, panel, b, &expanded->head, 2, codes, sums, scales, acc);
            continue;
        }
        for (int32_t j = 0; j < 8; ++j)
#pragma GCC unroll 2
            for (int32_t half = 0; half < 2; ++half) {
                __m256i q[8];
                f->codes(panel, b, j, half, q);
#pragma GCC unroll 8
                for (int32_t c = 0; c < 8; ++c)
                    store_256(expanded->q[2 * j + c / 4][c % 4] + 32 * half, q[c]);
            }
#define TILE(tokens, t, fetch) \
    groups_tile(f, expanded, tokens, codes + (t) * 256, sums + (t) * ACTIVATION_SUMS_256, scales + (t), acc + (t) * 16, \
                fetch ? panel + (b + 1) * f->bytes : NULL)
        FOR_TILES(GROUPS_TILE, nt, TILE);
#undef TILE
    }
}

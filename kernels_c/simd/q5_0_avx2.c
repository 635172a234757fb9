/* q5_0_avx2.c: Q5_0 panels with AVX2.
 *
 * As for Q6_K: unsigned codes, an int16 sum that starts from -16 times the sum of its activations,
 * and so holds, modulo 2^16, the 16 products of (code - 16) of a block of 32. */
#define Q5_0_TOKENS 4        /* a tile */
_Static_assert(2 * 31 * 127 <= INT16_MAX, "maddubs of Q5_0 codes does not saturate");
_Static_assert(16 * 16 * 127 <= INT16_MAX, "a block of Q5_0 fits in int16");

typedef struct {
    uint8_t q[8][64];
    float d[16];
} q5_0_block;
#define Q5_0_EXPANDED 16          /* blocks expanded at a time */
_Static_assert(Q5_0_EXPANDED * sizeof(q5_0_block) <= PANEL_SCRATCH, "expanded Q5_0 blocks fit in scratch");

/* Chunks c and c + 4, rows 8*half .. +7; c a constant. */
V16 void q5_0_codes(const packed_q5_0 *b, int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    __m256i nibble = _mm256_set1_epi8(15), bit = _mm256_set1_epi8(16);
    __m256i q = load_256(b->q[c] + 32 * half), h = load_256(b->high + 32 * half);
    __m256i top = c == 0 ? h : _mm256_srli_epi16(h, c);
    *low = _mm256_or_si256(_mm256_and_si256(q, nibble), _mm256_and_si256(_mm256_slli_epi16(h, 4 - c), bit));
    *high = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 4), nibble), _mm256_and_si256(top, bit));
}

V16 void q5_0_expand(const packed_q5_0 *b, const uint16_t *d, q5_0_block *out)
{
    _mm256_storeu_ps(out->d, half_scales(d, 0));
    _mm256_storeu_ps(out->d + 8, half_scales(d, 1));
#pragma GCC unroll 4
    for (int32_t c = 0; c < 4; ++c)
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256i low, high;
            q5_0_codes(b, c, half, &low, &high);
            store_256(out->q[c] + 32 * half, low);
            store_256(out->q[c + 4] + 32 * half, high);
        }
}

/* I of a row from the sums of its even and odd pairs. */
V16 __m256i q5_0_products(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

V16 __m256i q5_0_offset(const int16_t *sums)
{
    return _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(broadcast_4(sums), 4));
}

/* A tile of `tokens` tokens (a constant) over expanded blocks, the panel's first .. first+blocks-1.
 * fetch (a constant): has the panel's next blocks come from memory meanwhile. */
V16 void q5_0_tile(const q5_0_block *block, const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens,
                   int32_t fetch, const activations *a, int32_t t0, float *acc)
{
    for (int32_t b = 0; b < blocks; ++b) {
        if (fetch)
            fetch_bytes(block_q5_0(panel, first + blocks + b), sizeof(packed_q5_0));
        int64_t at = (int64_t)(first + b) * a->n_tokens + t0;
        const int8_t *codes = a->codes + at * 32;
        __m256i part[4][2];
#pragma GCC unroll 4
        for (int32_t t = 0; t < tokens; ++t)
            part[t][0] = part[t][1] = q5_0_offset(a->sums + (at + t) * ACTIVATION_SUMS_32);
#pragma GCC unroll 8
        for (int32_t c = 0; c < 8; ++c) {
            __m256i w0 = load_256(block[b].q[c]), w1 = load_256(block[b].q[c] + 32);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t) {
                __m256i x = broadcast_4(codes + t * 32 + c * 4);
                part[t][0] = _mm256_add_epi16(part[t][0], _mm256_maddubs_epi16(w0, x));
                part[t][1] = _mm256_add_epi16(part[t][1], _mm256_maddubs_epi16(w1, x));
                KEEP(part[t][0]);
                KEEP(part[t][1]);
            }
        }
#pragma GCC unroll 2
        for (int32_t half = 0; half < 2; ++half) {
            __m256 scale = _mm256_loadu_ps(block[b].d + 8 * half);
#pragma GCC unroll 4
            for (int32_t t = 0; t < tokens; ++t)
                add_block_of_32(acc + t * 16, half, a->scales[at + t], q5_0_products(part[t][half]), scale);
        }
        KEEP_STORED();
    }
}

V16 void q5_0_direct(const packed_q5_0 *b, const uint16_t *d, const int8_t *codes, const int16_t *sums,
                     float da, float *acc)
{
#pragma GCC unroll 8
    for (int32_t line = 0; line < 5; ++line)
        prefetch((const uint8_t *)b + 64 * line);
#pragma GCC unroll 2
    for (int32_t half = 0; half < 2; ++half) {
        __m256i part = q5_0_offset(sums);
#pragma GCC unroll 4
        for (int32_t c = 0; c < 4; ++c) {
            __m256i low, high;
            q5_0_codes(b, c, half, &low, &high);
            __m256i p0 = _mm256_maddubs_epi16(low, broadcast_4(codes + c * 4));
            __m256i p1 = _mm256_maddubs_epi16(high, broadcast_4(codes + 16 + c * 4));
            part = _mm256_add_epi16(part, _mm256_add_epi16(p0, p1));
        }
        add_block_of_32(acc, half, da, q5_0_products(part), half_scales(d, half));
    }
}

V16 void q5_0_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,
                    float *acc, uint8_t *scratch)
{
    q5_0_block *expanded = (q5_0_block *)scratch;
    memset(acc, 0, sizeof(float) * 16 * (size_t)nt);
    for (int32_t first = 0; first < k / 32; first += Q5_0_EXPANDED) {
        int32_t blocks = k / 32 - first < Q5_0_EXPANDED ? k / 32 - first : Q5_0_EXPANDED;
        if (nt == 1) {
            for (int32_t b = first; b < first + blocks; ++b) {
                int64_t at = (int64_t)b * a->n_tokens + t0;
                q5_0_direct(block_q5_0(panel, b), scales_q5_0(panel, b), a->codes + at * 32, a->sums + at * ACTIVATION_SUMS_32,
                            a->scales[at], acc);
            }
            continue;
        }
        for (int32_t b = 0; b < blocks; ++b)
            q5_0_expand(block_q5_0(panel, first + b), scales_q5_0(panel, first + b), expanded + b);
#define TILE(tokens, t, fetch) q5_0_tile(expanded, panel, first, blocks, tokens, fetch, a, t0 + (t), acc + (t) * 16)
        FOR_TILES(Q5_0_TOKENS, nt, TILE);
#undef TILE
    }
}

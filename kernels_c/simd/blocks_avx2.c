/* blocks_avx2.c: what the AVX2 integer cores share. A panel of 16 rows is two ymm of 8. */
V16 __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
V16 void store_256(void *p, __m256i x) { _mm256_storeu_si256((__m256i *)p, x); }

/* Four bytes (four codes, or two sums) to all lanes. */
V16 __m256i broadcast_4(const void *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}

/* 8 of 16 fp16 scales. */
V16 __m256 half_scales(const uint16_t *d, int32_t half)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(d + 8 * half)));
}

/* Rows 8*half .. +7 of bytes x and y as int16 pairs (x, y), unsigned or signed. */
V16 __m256i pairs_u8(__m128i x, __m128i y, int32_t half)
{
    return _mm256_cvtepu8_epi16(half ? _mm_unpackhi_epi8(x, y) : _mm_unpacklo_epi8(x, y));
}

V16 __m256i pairs_i8(__m128i x, __m128i y, int32_t half)
{
    return _mm256_cvtepi8_epi16(half ? _mm_unpackhi_epi8(x, y) : _mm_unpacklo_epi8(x, y));
}

/* Has the compiler finish x here, in a register. GCC otherwise sinks the additions of an
 * unrolled chain to its end and keeps all products on the stack until then. */
#define KEEP(x) __asm__ volatile("" : "+x"(x))

/* Has the compiler leave in memory what was stored there. Otherwise it carries sums from block to
 * block in the registers that the next block's products need, and spills those. */
#define KEEP_STORED() __asm__ volatile("" ::: "memory")

/* acc[half] = fma(d * da, I, acc): a block of 32. */
V16 void add_block_of_32(float *acc, int32_t half, float da, __m256i products, __m256 d)
{
    __m256 both = _mm256_mul_ps(d, _mm256_set1_ps(da));
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(products), _mm256_loadu_ps(acc + 8 * half)));
}

/* Software prefetch distance ahead of a panel that is read once. */
#define PREFETCH_AHEAD 2048
V16 void prefetch(const void *p) { _mm_prefetch((const char *)p + PREFETCH_AHEAD, _MM_HINT_T0); }

/* Asks for the `bytes` at p. A tile of arithmetic that several tokens share so fetches what is unpacked
 * after it, little by little; unpacking alone reads too fast for a prefetch to hide anything. */
V16 void fetch_bytes(const void *p, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)p + at, _MM_HINT_T0);
}

/* Runs tile(tokens, t, first) over nt tokens; `tokens` and `first`, whether these are the first four,
 * are constants in each call. */
#define FOR_TILES(most, nt, tile)                                   \
    do {                                                            \
        _Static_assert((most) == 4, "tiles are of four tokens");     \
        int32_t t = 0;                                              \
        if ((nt) >= 4) {                                            \
            tile(4, 0, 1);                                          \
            t = 4;                                                  \
        }                                                           \
        for (; t + 4 <= (nt); t += 4)                               \
            tile(4, t, 0);                                          \
        if ((nt) - t >= 2) {                                        \
            tile(2, t, 0);                                          \
            t += 2;                                                 \
        }                                                           \
        if (t < (nt))                                               \
            tile(1, t, 0);                                          \
    } while (0)

/* acc[half] = fma(da, fma(m, A, d * I), acc): a block of 32 with a minimum; A: the sum of its activations. */
V16 void add_affine_of_32(float *acc, int32_t half, float da, const int16_t *sums, __m256i products, __m256 d, __m256 m)
{
    __m256 all = _mm256_set1_ps((float)(sums[0] + sums[1]));
    __m256 term = _mm256_fmadd_ps(m, all, _mm256_mul_ps(d, _mm256_cvtepi32_ps(products)));
    _mm256_storeu_ps(acc + 8 * half, _mm256_fmadd_ps(_mm256_set1_ps(da), term, _mm256_loadu_ps(acc + 8 * half)));
}

/* Chunks c and c + 4, rows 8*half .. +7, of nibbles as Q4_0 and its kin hold them; c a constant. */
V16 void nibbles_of_32(const uint8_t (*q)[64], int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    __m256i nibble = _mm256_set1_epi8(15), bytes = load_256(q[c] + 32 * half);
    *low = _mm256_and_si256(bytes, nibble);
    *high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
}

/* The same with a fifth bit each; top: bit c is that of chunk c. */
V16 void fifth_bits_of_32(const uint8_t *top, int32_t c, int32_t half, __m256i *low, __m256i *high)
{
    __m256i bit = _mm256_set1_epi8(16), h = load_256(top + 32 * half);
    *low = _mm256_or_si256(*low, _mm256_and_si256(_mm256_slli_epi16(h, 4 - c), bit));
    *high = _mm256_or_si256(*high, _mm256_and_si256(c == 0 ? h : _mm256_srli_epi16(h, c), bit));
}

/* A block of 32 expanded for several tokens: codes a byte each, scales and minima as floats. */
typedef struct {
    uint8_t q[8][64];
    float d[16], m[16];
} codes_of_32;
#define EXPANDED_OF_32 16          /* blocks expanded at a time */
_Static_assert(EXPANDED_OF_32 * sizeof(codes_of_32) <= PANEL_SCRATCH, "expanded blocks of 32 fit in scratch");

#define EXPAND_OF_32(format)                                                                   \
    V16 void format##_expand(const uint8_t *panel, int32_t b, codes_of_32 *out)                \
    {                                                                                          \
        _Pragma("GCC unroll 2")                                                                \
        for (int32_t half = 0; half < 2; ++half) {                                             \
            _mm256_storeu_ps(out->d + 8 * half, format##_d(panel, b, half));                   \
            _mm256_storeu_ps(out->m + 8 * half, format##_m(panel, b, half));                   \
            _Pragma("GCC unroll 4")                                                            \
            for (int32_t c = 0; c < 4; ++c) {                                                  \
                __m256i low, high;                                                             \
                format##_codes(block_##format(panel, b), c, half, &low, &high);                \
                store_256(out->q[c] + 32 * half, low);                                         \
                store_256(out->q[c + 4] + 32 * half, high);                                    \
            }                                                                                  \
        }                                                                                      \
    }

/* The walk over a panel of blocks of 32 with unsigned codes of five bits or fewer. A format's file brings
 *   <format>_codes(block, c, half, &low, &high): chunks c and c + 4, a byte a code;
 *   <format>_d, <format>_m(panel, b, half): scales and minima of 8 rows;
 *   <format>_start(sums): what the int16 sums of even and of odd pairs start from, so that they end in range;
 *   <format>_total(part, sums): I of a row from those two;
 *   <format>_add(acc, half, da, sums, I, d, m): the float step.
 * tile(tokens, t, fetch): TILE_OF_32 with the format's name. */
#define WALK_OF_32(format, most, tile)                                                                                              \
    V16 void format##_tile(const codes_of_32 *block, const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens,           \
                             int32_t fetch, const activations *a, int32_t t0, float *acc)                                           \
    {                                                                                                                               \
        for (int32_t b = 0; b < blocks; ++b) {                                                                                      \
            if (fetch)                                                                                                              \
                fetch_bytes(block_##format(panel, first + blocks + b), sizeof(packed_##format));                                    \
            int64_t at = (int64_t)(first + b) * a->n_tokens + t0;                                                                   \
            const int8_t *codes = a->codes + at * 32;                                                                               \
            const int16_t *sums = a->sums + at * ACTIVATION_SUMS_32;                                                                \
            __m256i part[most][2];                                                                                                  \
            _Pragma("GCC unroll 4")                                                                                                 \
            for (int32_t t = 0; t < tokens; ++t)                                                                                    \
                part[t][0] = part[t][1] = format##_start(sums + t * ACTIVATION_SUMS_32);                                            \
            _Pragma("GCC unroll 8")                                                                                                 \
            for (int32_t c = 0; c < 8; ++c) {                                                                                       \
                __m256i w0 = load_256(block[b].q[c]), w1 = load_256(block[b].q[c] + 32);                                            \
                _Pragma("GCC unroll 4")                                                                                             \
                for (int32_t t = 0; t < tokens; ++t) {                                                                              \
                    __m256i x = broadcast_4(codes + t * 32 + c * 4);                                                                \
                    part[t][0] = _mm256_add_epi16(part[t][0], _mm256_maddubs_epi16(w0, x));                                         \
                    part[t][1] = _mm256_add_epi16(part[t][1], _mm256_maddubs_epi16(w1, x));                                         \
                    KEEP(part[t][0]);                                                                                               \
                    KEEP(part[t][1]);                                                                                               \
                }                                                                                                                   \
            }                                                                                                                       \
            _Pragma("GCC unroll 2")                                                                                                 \
            for (int32_t half = 0; half < 2; ++half) {                                                                              \
                __m256 d = _mm256_loadu_ps(block[b].d + 8 * half), m = _mm256_loadu_ps(block[b].m + 8 * half);                      \
                _Pragma("GCC unroll 4")                                                                                             \
                for (int32_t t = 0; t < tokens; ++t)                                                                                \
                    format##_add(acc + t * 16, half, a->scales[at + t], sums + t * ACTIVATION_SUMS_32,                              \
                                 format##_total(part[t][half], sums + t * ACTIVATION_SUMS_32), d, m);                               \
            }                                                                                                                       \
            KEEP_STORED();                                                                                                          \
        }                                                                                                                           \
    }                                                                                                                               \
    V16 void format##_direct(const uint8_t *panel, int32_t b, const int8_t *codes, const int16_t *sums, float da, float *acc)       \
    {                                                                                                                               \
        const packed_##format *block = block_##format(panel, b);                                                                    \
        _Pragma("GCC unroll 8")                                                                                                     \
        for (int32_t line = 0; line < (int32_t)(sizeof *block + 63) / 64; ++line)                                                   \
            prefetch((const uint8_t *)block + 64 * line);                                                                           \
        _Pragma("GCC unroll 2")                                                                                                     \
        for (int32_t half = 0; half < 2; ++half) {                                                                                  \
            __m256i part = format##_start(sums);                                                                                    \
            _Pragma("GCC unroll 4")                                                                                                 \
            for (int32_t c = 0; c < 4; ++c) {                                                                                       \
                __m256i low, high;                                                                                                  \
                format##_codes(block, c, half, &low, &high);                                                                        \
                __m256i p0 = _mm256_maddubs_epi16(low, broadcast_4(codes + c * 4));                                                 \
                __m256i p1 = _mm256_maddubs_epi16(high, broadcast_4(codes + 16 + c * 4));                                           \
                part = _mm256_add_epi16(part, _mm256_add_epi16(p0, p1));                                                            \
            }                                                                                                                       \
            format##_add(acc, half, da, sums, format##_total(part, sums), format##_d(panel, b, half), format##_m(panel, b, half));  \
        }                                                                                                                           \
    }                                                                                                                               \
    V16 void format##_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,                          \
                              float *acc, uint8_t *scratch)                                                                         \
    {                                                                                                                               \
        codes_of_32 *expanded = (codes_of_32 *)scratch;                                                                             \
        memset(acc, 0, sizeof(float) * 16 * (size_t)nt);                                                                            \
        for (int32_t first = 0; first < k / 32; first += EXPANDED_OF_32) {                                                          \
            int32_t blocks = k / 32 - first < EXPANDED_OF_32 ? k / 32 - first : EXPANDED_OF_32;                                     \
            if (nt == 1) {                                                                                                          \
                for (int32_t b = first; b < first + blocks; ++b) {                                                                  \
                    int64_t at = (int64_t)b * a->n_tokens + t0;                                                                     \
                    format##_direct(panel, b, a->codes + at * 32, a->sums + at * ACTIVATION_SUMS_32, a->scales[at], acc);           \
                }                                                                                                                   \
                continue;                                                                                                           \
            }                                                                                                                       \
            for (int32_t b = 0; b < blocks; ++b)                                                                                    \
                format##_expand(panel, first + b, expanded + b);                                                                    \
            FOR_TILES(most, nt, tile);                                                                                              \
        }                                                                                                                           \
    }
#define TILE_OF_32(format, tokens, t, fetch) \
    format##_tile(expanded, panel, first, blocks, tokens, fetch, a, t0 + (t), acc + (t) * 16)

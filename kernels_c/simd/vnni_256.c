/* vnni_256.c: the two products of VNNI in registers of 256 bits, in the form that the build asks for.
 *
 * Client CPUs have them in the VEX encoding (AVX-VNNI), CPUs with AVX-512 in the EVEX one. With
 * EMULATED_VNNI they are composed of AVX2's products, to prove kernels where the CPU has neither.
 *
 * dot_4: total + sum of four products of codes (unsigned) and activations (signed), in each int32 lane.
 * dot_2: total + sum of two products of int16. Neither can saturate. */
#if defined(EMULATED_VNNI)
/* Bytes widen to int16 in two steps, those with k even and those with k odd. A call each, because the
 * kernels unroll hundreds. */
static __attribute__((noinline)) __m256i dot_4(__m256i total, __m256i codes, __m256i x)
{
    const __m256i low = _mm256_set1_epi16(255);
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(total, _mm256_add_epi32(even, odd));
}
V16 __m256i dot_2(__m256i total, __m256i x, __m256i y) { return _mm256_add_epi32(total, _mm256_madd_epi16(x, y)); }
#elif defined(__AVXVNNI__)
V16 __m256i dot_4(__m256i total, __m256i codes, __m256i x) { return _mm256_dpbusd_avx_epi32(total, codes, x); }
V16 __m256i dot_2(__m256i total, __m256i x, __m256i y) { return _mm256_dpwssd_avx_epi32(total, x, y); }
#else
V16 __m256i dot_4(__m256i total, __m256i codes, __m256i x) { return _mm256_dpbusd_epi32(total, codes, x); }
V16 __m256i dot_2(__m256i total, __m256i x, __m256i y) { return _mm256_dpwssd_epi32(total, x, y); }
#endif

/* Runs tile(tokens, t, first) over nt tokens; `tokens` and `first`, whether these are the first six,
 * are constants in each call. */
#define FOR_TILES_OF_SIX(most, nt, tile)                            \
    do {                                                            \
        _Static_assert((most) == 6, "tiles are of six tokens");     \
        int32_t t = 0;                                              \
        if ((nt) >= 6) {                                            \
            tile(6, 0, 1);                                          \
            t = 6;                                                  \
        }                                                           \
        for (; t + 6 <= (nt); t += 6)                               \
            tile(6, t, 0);                                          \
        if ((nt) - t >= 4) {                                        \
            tile(4, t, 0);                                          \
            t += 4;                                                 \
        }                                                           \
        if ((nt) - t >= 2) {                                        \
            tile(2, t, 0);                                          \
            t += 2;                                                 \
        }                                                           \
        if (t < (nt))                                               \
            tile(1, t, 0);                                          \
    } while (0)

/* The walk over a panel of blocks of 32 with unsigned codes; beside what WALK_OF_32 asks for, a format's file
 * brings <format>_vnni_start(sums): what int32 sums start from, so that they end at I. */
#define WALK_OF_32_VNNI(format, most, tile)                                                                                         \
    V16 void format##_vnni_tile(const codes_of_32 *block, const uint8_t *panel, int32_t first, int32_t blocks, int32_t tokens,      \
                             int32_t fetch, const activations *a, int32_t t0, float *acc)                                           \
    {                                                                                                                               \
        for (int32_t b = 0; b < blocks; ++b) {                                                                                      \
            if (fetch)                                                                                                              \
                fetch_bytes(block_##format(panel, first + blocks + b), sizeof(packed_##format));                                    \
            int64_t at = (int64_t)(first + b) * a->n_tokens + t0;                                                                   \
            const int8_t *codes = a->codes + at * 32;                                                                               \
            const int16_t *sums = a->sums + at * ACTIVATION_SUMS_32;                                                                \
            __m256i part[most][2];                                                                                                  \
            _Pragma("GCC unroll 6")                                                                                                 \
            for (int32_t t = 0; t < tokens; ++t)                                                                                    \
                part[t][0] = part[t][1] = format##_vnni_start(sums + t * ACTIVATION_SUMS_32);                                       \
            _Pragma("GCC unroll 8")                                                                                                 \
            for (int32_t c = 0; c < 8; ++c) {                                                                                       \
                __m256i w0 = load_256(block[b].q[c]), w1 = load_256(block[b].q[c] + 32);                                            \
                KEEP(w0);                                                                                                           \
                KEEP(w1);                                                                                                           \
                _Pragma("GCC unroll 6")                                                                                             \
                for (int32_t t = 0; t < tokens; ++t) {                                                                              \
                    __m256i x = broadcast_4(codes + t * 32 + c * 4);                                                                \
                    part[t][0] = dot_4(part[t][0], w0, x);                                                                          \
                    part[t][1] = dot_4(part[t][1], w1, x);                                                                          \
                }                                                                                                                   \
            }                                                                                                                       \
            _Pragma("GCC unroll 2")                                                                                                 \
            for (int32_t half = 0; half < 2; ++half) {                                                                              \
                __m256 d = _mm256_loadu_ps(block[b].d + 8 * half), m = _mm256_loadu_ps(block[b].m + 8 * half);                      \
                _Pragma("GCC unroll 6")                                                                                             \
                for (int32_t t = 0; t < tokens; ++t)                                                                                \
                    format##_add(acc + t * 16, half, a->scales[at + t], sums + t * ACTIVATION_SUMS_32, part[t][half], d, m);        \
            }                                                                                                                       \
            KEEP_STORED();                                                                                                          \
        }                                                                                                                           \
    }                                                                                                                               \
    V16 void format##_vnni_direct(const uint8_t *panel, int32_t b, const int8_t *codes, const int16_t *sums, float da, float *acc)  \
    {                                                                                                                               \
        const packed_##format *block = block_##format(panel, b);                                                                    \
        _Pragma("GCC unroll 8")                                                                                                     \
        for (int32_t line = 0; line < (int32_t)(sizeof *block + 63) / 64; ++line)                                                   \
            prefetch((const uint8_t *)block + 64 * line);                                                                           \
        _Pragma("GCC unroll 2")                                                                                                     \
        for (int32_t half = 0; half < 2; ++half) {                                                                                  \
            __m256i total = format##_vnni_start(sums), other = _mm256_setzero_si256();                                              \
            _Pragma("GCC unroll 4")                                                                                                 \
            for (int32_t c = 0; c < 4; ++c) {                                                                                       \
                __m256i low, high;                                                                                                  \
                format##_codes(block, c, half, &low, &high);                                                                        \
                total = dot_4(total, low, broadcast_4(codes + c * 4));                                                              \
                other = dot_4(other, high, broadcast_4(codes + 16 + c * 4));                                                        \
            }                                                                                                                       \
            format##_add(acc, half, da, sums, _mm256_add_epi32(total, other), format##_d(panel, b, half), format##_m(panel, b, half));\
        }                                                                                                                           \
    }                                                                                                                               \
    V16 void format##_vnni_panel(const uint8_t *panel, int32_t k, const activations *a, int32_t t0, int32_t nt,                     \
                              float *acc, uint8_t *scratch)                                                                         \
    {                                                                                                                               \
        codes_of_32 *expanded = (codes_of_32 *)scratch;                                                                             \
        memset(acc, 0, sizeof(float) * 16 * (size_t)nt);                                                                            \
        for (int32_t first = 0; first < k / 32; first += EXPANDED_OF_32) {                                                          \
            int32_t blocks = k / 32 - first < EXPANDED_OF_32 ? k / 32 - first : EXPANDED_OF_32;                                     \
            if (nt == 1) {                                                                                                          \
                for (int32_t b = first; b < first + blocks; ++b) {                                                                  \
                    int64_t at = (int64_t)b * a->n_tokens + t0;                                                                     \
                    format##_vnni_direct(panel, b, a->codes + at * 32, a->sums + at * ACTIVATION_SUMS_32, a->scales[at], acc);      \
                }                                                                                                                   \
                continue;                                                                                                           \
            }                                                                                                                       \
            for (int32_t b = 0; b < blocks; ++b)                                                                                    \
                format##_expand(panel, first + b, expanded + b);                                                                    \
            FOR_TILES_OF_SIX(most, nt, tile);                                                                                       \
        }                                                                                                                           \
    }
#define TILE_OF_32_VNNI(format, tokens, t, fetch) \
    format##_vnni_tile(expanded, panel, first, blocks, tokens, fetch, a, t0 + (t), acc + (t) * 16)

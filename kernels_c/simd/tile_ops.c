/* tile_ops.c: the tile registers of AMX-INT8, one small set of operations, and its twin in plain C.
 *
 * A tile is 16 rows of 64 bytes. Eight are configured for a depth of K, in bytes:
 *   0 .. 3   sums: 16 tokens x 16 rows of a panel, int32
 *   4, 5     activations: 16 tokens x `depth` codes
 *   6, 7     weights: depth / 4 chunks of a panel (4 consecutive k of its 16 rows)
 *
 * The tiles belong to the thread: tile_begin before the first use, tile_rest when it rests, so that the
 * system has no tile state to save for it. With EMULATED_AMX nothing of this needs the instructions.
 *
 * The assembly says which memory it reads: a compiler that believes an instruction to read less than it
 * does leaves the stores before it away. */
#define TILE_TOKENS 16

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;
_Static_assert(sizeof(tile_shapes) == 64, "the tile configuration is one line");

static inline tile_shapes tile_shapes_of(int32_t depth)
{
    tile_shapes s = {.palette = 1};
    for (int32_t i = 0; i < 8; ++i) {
        s.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? depth : 64);
        s.rows[i] = (uint8_t)(i < 6 ? TILE_TOKENS : depth / 4);
    }
    return s;
}

/* The depth that the thread's tiles are configured for; 0: at rest. */
static _Thread_local int32_t tile_depth;

#if defined(EMULATED_AMX)
static _Thread_local struct {
    tile_shapes shapes;
    uint8_t tile[8][16][64];
} tile_state;

static __attribute__((noinline)) void tile_configure(int32_t depth)
{
    memset(&tile_state, 0, sizeof tile_state);
    tile_state.shapes = tile_shapes_of(depth);
}
static void tile_release(void) { memset(&tile_state, 0, sizeof tile_state); }

/* An instruction on tiles that are not configured, or not for one another, is none. */
static void tile_require(int32_t condition)
{
    if (!condition)
        abort();
}
static void tile_zero_of(int32_t t)
{
    tile_require(tile_state.shapes.palette == 1);
    memset(tile_state.tile[t], 0, sizeof tile_state.tile[t]);
}
static void tile_load_to(int32_t t, const void *p, int64_t stride)
{
    tile_zero_of(t);
    for (int32_t r = 0; r < tile_state.shapes.rows[t]; ++r)
        memcpy(tile_state.tile[t][r], (const uint8_t *)p + r * stride, tile_state.shapes.row_bytes[t]);
}
static void tile_store_from(int32_t t, void *p)
{
    tile_require(tile_state.shapes.palette == 1 && tile_state.shapes.rows[t] == 16 && tile_state.shapes.row_bytes[t] == 64);
    memcpy(p, tile_state.tile[t], sizeof tile_state.tile[t]);
}
/* Weights as int32, so that one loop serves both kinds. Sums wrap as the instruction's do. */
static void tile_dot_of(int32_t c, int32_t a, int32_t b, int32_t weights_signed)
{
    const tile_shapes *s = &tile_state.shapes;
    tile_require(s->palette == 1 && s->rows[c] == s->rows[a] && s->row_bytes[c] == s->row_bytes[b]
                 && s->row_bytes[a] == 4 * s->rows[b]);
    for (int32_t k = 0; k < s->rows[b]; ++k) {
        int32_t w[4][16];
        for (int32_t n = 0; n < 16; ++n)
            for (int32_t i = 0; i < 4; ++i) {
                const uint8_t byte = tile_state.tile[b][k][4 * n + i];
                w[i][n] = weights_signed ? (int8_t)byte : byte;
            }
        for (int32_t m = 0; m < s->rows[c]; ++m) {
            uint32_t sum[16];
            memcpy(sum, tile_state.tile[c][m], sizeof sum);
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t x = (int8_t)tile_state.tile[a][m][4 * k + i];
                for (int32_t n = 0; n < s->row_bytes[c] / 4; ++n)
                    sum[n] += (uint32_t)(x * w[i][n]);
            }
            memcpy(tile_state.tile[c][m], sum, sizeof sum);
        }
    }
}
#define tile_zero(t) tile_zero_of(t)
#define tile_load(t, p, stride) tile_load_to(t, p, stride)
#define tile_store(t, p) tile_store_from(t, p)
#define tile_dot_unsigned(c, a, b) tile_dot_of(c, a, b, 0)
#define tile_dot_signed(c, a, b) tile_dot_of(c, a, b, 1)

/* Why tiles cannot be used here, or NULL. */
static const char *tile_obstacle(void) { return NULL; }

#else
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a tile's instructions read at a stride, a constant no less than a row, and what they write. */
#define TILE_READ(p, stride) (*(const uint8_t (*)[16 * (stride)])(p))
#define TILE_WRITTEN(p) (*(uint8_t (*)[16 * 64])(p))

static __attribute__((noinline)) void tile_configure(int32_t depth)
{
    const tile_shapes s = tile_shapes_of(depth);
    __asm__ volatile("ldtilecfg %0" : : "m"(s));
}
static void tile_release(void) { __asm__ volatile("tilerelease"); }

/* c, a, b, t: numbers. tile_zero: all zero. tile_load: of rows `stride` bytes apart; tile_store: of
 * sums, to rows one after the other.
 * tile_dot_*: sums += activations x weights, four products a lane; the activations are signed. */
#define tile_zero(t) __asm__ volatile("tilezero %%tmm" #t : :)
#define tile_load(t, p, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((int64_t)(stride)), "m"(TILE_READ(p, stride)))
#define tile_store(t, p) __asm__ volatile("tilestored %%tmm" #t ", (%1,%2,1)" : "=m"(TILE_WRITTEN(p)) : "r"(p), "r"((int64_t)64))
#define tile_dot_unsigned(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define tile_dot_signed(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#define TILE_ARCH_REQ_XCOMP_PERM 0x1023
#define TILE_XFEATURE_DATA 18

/* Why tiles cannot be used here, or NULL. Some hypervisors announce AMX and offer no palette; Linux
 * (since 5.16) wants to be asked for the room to save tiles in, once a process. */
static const char *tile_obstacle(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1))
        return "the CPU has no AMX-INT8";
    if (!__get_cpuid_count(0x1d, 0, &a, &b, &c, &d) || a < 1)
        return "the CPU announces AMX without a palette of tiles";
    if (!__get_cpuid_count(0x1d, 1, &a, &b, &c, &d) || b >> 16 < 8 || (b & 0xffff) != 64 || (c & 0xffff) != 16)
        return "the tiles of this CPU are not eight of 16 rows of 64 bytes";
    if (syscall(SYS_arch_prctl, TILE_ARCH_REQ_XCOMP_PERM, TILE_XFEATURE_DATA) != 0)
        return "the kernel does not grant tile state (Linux 5.16 or later does)";
    return NULL;
}
#endif

static inline void tile_begin(int32_t depth)
{
    if (tile_depth != depth) {
        tile_configure(depth);
        tile_depth = depth;
    }
}

/* At the end of a thread's part of a step. */
static inline void tile_rest(void)
{
    if (tile_depth != 0) {
        tile_release();
        tile_depth = 0;
    }
}

/* Whether one product of each kind, at a depth, is what it should be. */
static int32_t tile_product_right(int32_t depth)
{
    _Alignas(64) uint8_t x[16][64], w[16][64];
    _Alignas(64) int32_t sums[2][16][16];
    for (int32_t r = 0; r < 16; ++r)
        for (int32_t i = 0; i < 64; ++i) {
            x[r][i] = (uint8_t)(37 * r + 11 * i + 129);
            w[r][i] = (uint8_t)(53 * r + 7 * i + 201);
        }
    tile_begin(depth);
    tile_load(4, x, 64);
    tile_load(6, w, 64);
    tile_zero(0);
    tile_zero(1);
    tile_dot_unsigned(0, 4, 6);
    tile_dot_signed(1, 4, 6);
    tile_store(0, sums[0]);
    tile_store(1, sums[1]);
    int32_t right = 1;
    for (int32_t m = 0; m < 16; ++m)
        for (int32_t n = 0; n < 16; ++n) {
            int32_t of_unsigned = 0, of_signed = 0;
            for (int32_t i = 0; i < depth; ++i) {
                of_unsigned += (int8_t)x[m][i] * w[i / 4][4 * n + i % 4];
                of_signed += (int8_t)x[m][i] * (int8_t)w[i / 4][4 * n + i % 4];
            }
            right &= sums[0][m][n] == of_unsigned && sums[1][m][n] == of_signed;
        }
    return right;
}

/* Why the kernels that follow cannot run here, or NULL: asked once before a process uses them. */
static const char *tile_unusable(void)
{
    const char *obstacle = tile_obstacle();
    if (obstacle != NULL)
        return obstacle;
    const int32_t right = tile_product_right(64) && tile_product_right(32);
    tile_rest();
    return right ? NULL : "a product of tiles is wrong on this machine";
}

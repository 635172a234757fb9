/* check_inputs.c: random and pathological inputs, and buffers that notice writes and reads
 * outside them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "check.h"

#define CANARY 0xa5
#define PAGE 4096

uint64_t random_bits(random_stream *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;       /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int32_t random_below(random_stream *r, int32_t n) { return (int32_t)(random_bits(r) % (uint64_t)n); }

float random_normal(random_stream *r)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < 4; ++i)
        sum += (float)(random_bits(r) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

guarded guarded_new(int64_t bytes, int64_t alignment)
{
    guarded g;
    int64_t padded = (bytes + alignment - 1) / alignment * alignment;
    g.bytes = bytes;
    g.slack = padded - bytes;
    g.mapped = (padded + 64 + PAGE - 1) / PAGE * PAGE;
    g.mapping = mmap(NULL, (size_t)g.mapped + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.mapping == MAP_FAILED || mprotect(g.mapping + g.mapped, PAGE, PROT_NONE) != 0)
        abort();
    memset(g.mapping, CANARY, (size_t)g.mapped);
    g.data = g.mapping + g.mapped - padded;
    return g;
}

int32_t guarded_intact(const guarded *g)
{
    for (const uint8_t *p = g->data - 64; p < g->data; ++p)
        if (*p != CANARY)
            return 0;
    for (int64_t i = 0; i < g->slack; ++i)
        if (g->data[g->bytes + i] != CANARY)
            return 0;
    return 1;
}

void guarded_free(guarded *g) { munmap(g->mapping, (size_t)g->mapped + PAGE); }

int32_t same_floats(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; ++i)
        if (memcmp(a + i, b + i, 4) != 0 && !(isnan(a[i]) && isnan(b[i])))
            return 0;
    return 1;
}

void random_floats(random_stream *r, float *x, int64_t n)
{
    int32_t style = random_below(r, 12);
    float scale = style == 1 ? 1e30f : style == 2 ? 1e-30f : style == 3 ? 1e-38f : style == 4 ? 30.0f : 1.0f;
    for (int64_t i = 0; i < n; ++i)
        x[i] = random_normal(r) * scale;
    switch (style) {
    case 5:                                       /* all at the largest code, one sign */
        for (int64_t i = 0; i < n; ++i)
            x[i] = 3.0f;
        break;
    case 6:                                       /* the same, signs as bits come */
        for (int64_t i = 0; i < n; ++i)
            x[i] = random_bits(r) & 1 ? 3.0f : -3.0f;
        break;
    case 7:
        memset(x, 0, sizeof(float) * (size_t)n);
        break;
    case 8:                                       /* a spike */
        x[random_below(r, (int32_t)n)] = 1e6f;
        break;
    case 9:                                       /* ties of rounding */
        for (int64_t i = 0; i < n; ++i)
            x[i] = ((float)random_below(r, 255) - 127.0f) * 0.5f;
        x[0] = 127.0f;
        break;
    case 10:
        if (random_below(r, 4) == 0)
            x[random_below(r, (int32_t)n)] = random_bits(r) & 1 ? INFINITY : NAN;
        else                                      /* zeros of both signs */
            for (int64_t i = 0; i < n; ++i)
                x[i] = random_bits(r) & 1 ? 0.0f : -0.0f;
        break;
    default:
        break;
    }
}

static uint16_t random_half(random_stream *r, int32_t style)
{
    static const uint16_t extreme[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0xfbff, 0x0400, 0x3c00};
    if (style == 1)
        return extreme[random_below(r, 8)];
    if (style == 2 && random_below(r, 8) == 0)
        return (uint16_t)(0x7c00 | random_below(r, 2) << 15 | random_below(r, 2) << 9);  /* infinite, NaN */
    return (uint16_t)(0x1000 + random_below(r, 0x1800) + (random_below(r, 4) == 0 ? 0x8000 : 0));
}

static void put_float(random_stream *r, int32_t kind, int32_t style, uint8_t *at)
{
    uint16_t value = kind == FLOAT_F16 ? random_half(r, style)
                     : (uint16_t)(0x3d00 + random_below(r, 0x300) + (random_bits(r) & 1 ? 0x8000 : 0));
    memcpy(at, &value, 2);
}

int64_t row_bytes_of(int32_t format, int32_t k) { return (int64_t)k / formats[format].block * formats[format].block_bytes; }

int64_t panel_bytes_of(int32_t format, int32_t k) { return formats[format].panel_bytes(k); }

void pack_rows(int32_t format, const uint8_t *rows, int32_t k, uint8_t *panel)
{
    formats[format].pack(rows, row_bytes_of(format, k), k, panel);
}

void random_rows(random_stream *r, int32_t format, int32_t k, uint8_t *rows)
{
    const stored_format *f = &formats[format];
    int64_t row_bytes = row_bytes_of(format, k);
    int64_t total = 16 * row_bytes;
    int32_t style = random_below(r, 6);
    if (f->floats[0].kind == FLOAT_F32) {
        random_floats(r, (float *)rows, total / 4);
    } else {
        int32_t codes = random_below(r, 6);
        if (codes == 1)
            memset(rows, 0xff, (size_t)total);
        else if (codes == 2)
            memset(rows, 0x80, (size_t)total);    /* -128 in codes and scales of a byte */
        else if (codes == 3)
            memset(rows, 0, (size_t)total);
        else if (codes == 4)
            memset(rows, 0x7f, (size_t)total);
        else
            for (int64_t i = 0; i < total; ++i)
                rows[i] = (uint8_t)random_bits(r);
        for (int64_t at = 0; at < total; at += f->block_bytes)
            for (int32_t i = 0; i < f->n_floats; ++i)
                put_float(r, f->floats[i].kind, style, rows + at + f->floats[i].offset);
    }
    if (random_below(r, 4) == 0) {                /* the tensor's last panel: rows that are not there */
        int64_t present = (1 + random_below(r, 15)) * row_bytes;
        memset(rows + present, 0, (size_t)(total - present));
    }
}

/* check.c: one kernel set against another, bit for bit.
 *
 *   check check REFERENCE TESTED CASES SEED [OP...]
 *   check bench REFERENCE TESTED THREADS ROUNDS DRAM_BYTES
 *
 * OP: a weight format, attention_<type of the KV cache>, rows, threadpool. A line of
 * JSON a result on stdout. Exit 0: all equal; 1: some differ; 2: usage. Case i has the seed SEED + i,
 * so that one case can be run again alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

int64_t check_panels(const kernel_table *reference, const kernel_table *tested, int32_t format,
                     int64_t cases, uint64_t seed, uint64_t *first)
{
    int64_t failures = 0;
    int32_t group = formats[format].group;
    int32_t sums = group == 256 ? ACTIVATION_SUMS_256 : ACTIVATION_SUMS_32;
    int32_t count = 0;
    while (count < TABLE_PANELS && reference->panel[format][count].k != 0)
        ++count;
    for (int64_t i = 0; i < cases; ++i) {
        random_stream r = {(seed + (uint64_t)i) * 0x2545f4914f6cdd1du};
        /* Short rows mostly: a case in eight has the longest. */
        int32_t choice = random_below(&r, 8) ? random_below(&r, count - 1) : count - 1;
        int32_t k = reference->panel[format][choice].k;
        /* Few tokens mostly: a case in sixteen has several tiles of any kernel, and a tail. */
        int32_t nt = random_below(&r, 3) ? 1 + random_below(&r, 4) : 1 + random_below(&r, k > 1000 ? 12 : 33);
        if (random_below(&r, 16) == 0)
            nt = 16 + random_below(&r, 64);
        int32_t t0 = random_below(&r, 3), n_tokens = t0 + nt + random_below(&r, 3);
        int32_t group_or_one = group ? group : 1, blocks = k / group_or_one;
        int32_t failed = 0;

        guarded rows = guarded_new(16 * row_bytes_of(format, k), 1);
        guarded panel = guarded_new(panel_bytes_of(format, k), 64);
        guarded x = guarded_new((int64_t)n_tokens * k * 4, 4);
        guarded codes[2], scales[2], sum[2], acc[2], row[2];
        for (int32_t s = 0; s < 2; ++s) {
            codes[s] = guarded_new(group ? (int64_t)n_tokens * k : 1, 1);
            scales[s] = guarded_new((int64_t)n_tokens * blocks * 4, 4);
            sum[s] = guarded_new((int64_t)n_tokens * blocks * sums * 2, 4);
            acc[s] = guarded_new((int64_t)nt * 64, 64);
            row[s] = guarded_new((int64_t)k * 4, 4);
        }
        guarded scratch = guarded_new(PANEL_SCRATCH, 64);

        random_rows(&r, format, k, rows.data);
        pack_rows(format, rows.data, k, panel.data);
        for (int32_t t = 0; t < n_tokens; ++t)
            random_floats(&r, (float *)x.data + (int64_t)t * k, k);
        const kernel_table *tables[2] = {reference, tested};
        for (int32_t s = 0; s < 2; ++s) {
            quantize_kernel quantize = group == 256 ? tables[s]->quantize_row_256 : tables[s]->quantize_row_32;
            for (int32_t t = 0; group && t < n_tokens; ++t)
                quantize((float *)x.data + (int64_t)t * k, k, t, n_tokens, (int8_t *)codes[s].data,
                         (float *)scales[s].data, (int16_t *)sum[s].data);
            activations a = {n_tokens, (float *)x.data, (int8_t *)codes[s].data, (float *)scales[s].data,
                             (int16_t *)sum[s].data};
            if (tables[s]->enter)
                tables[s]->enter();
            tables[s]->panel[format][choice].run(panel.data, &a, t0, nt, (float *)acc[s].data, scratch.data);
            if (tables[s]->leave)
                tables[s]->leave();
            tables[s]->dequantize_row[format](panel.data, i % 16, k, (float *)row[s].data);
            failed |= !(guarded_intact(&codes[s]) && guarded_intact(&scales[s]) && guarded_intact(&sum[s])
                        && guarded_intact(&acc[s]) && guarded_intact(&row[s]));
        }
        failed |= !(guarded_intact(&rows) && guarded_intact(&panel) && guarded_intact(&x) && guarded_intact(&scratch));
        if (group) {
            failed |= memcmp(codes[0].data, codes[1].data, (size_t)codes[0].bytes) != 0;
            failed |= memcmp(sum[0].data, sum[1].data, (size_t)sum[0].bytes) != 0;
            failed |= !same_floats((float *)scales[0].data, (float *)scales[1].data, (int64_t)n_tokens * blocks);
        }
        failed |= !same_floats((float *)acc[0].data, (float *)acc[1].data, (int64_t)nt * 16);
        failed |= !same_floats((float *)row[0].data, (float *)row[1].data, k);

        for (int32_t s = 0; s < 2; ++s) {
            guarded_free(&codes[s]);
            guarded_free(&scales[s]);
            guarded_free(&sum[s]);
            guarded_free(&acc[s]);
            guarded_free(&row[s]);
        }
        guarded_free(&rows);
        guarded_free(&panel);
        guarded_free(&x);
        guarded_free(&scratch);
        if (failed && failures++ == 0)
            *first = seed + (uint64_t)i;
    }
    return failures;
}

static const check_backend *find(const char *name)
{
    for (const check_backend *b = check_backends; b->name; ++b)
        if (strcmp(b->name, name) == 0)
            return b;
    fprintf(stderr, "check: no backend is called %s\n", name);
    exit(2);
}

static int64_t number(const char *text)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (*text == 0 || *end != 0 || value < 0) {
        fprintf(stderr, "check: %s is no count\n", text);
        exit(2);
    }
    return value;
}

static int32_t wanted(const char *op, int argc, char **argv)
{
    for (int i = 6; i < argc; ++i)
        if (strcmp(argv[i], op) == 0)
            return 1;
    return argc <= 6;
}

/* first: read here, after the call that finds it. */
static int32_t report(const char *op, int64_t cases, int64_t failures, const uint64_t *first)
{
    printf("{\"op\": \"%s\", \"cases\": %lld, \"failures\": %lld", op, (long long)cases, (long long)failures);
    if (failures)
        printf(", \"first_failing_seed\": %llu", (unsigned long long)*first);
    printf("}\n");
    fflush(stdout);
    return failures != 0;
}

int main(int argc, char **argv)
{
    if (argc >= 6 && strcmp(argv[1], "check") == 0) {
        const kernel_table *reference = find(argv[2])->table, *tested = find(argv[3])->table;
        int64_t cases = number(argv[4]);
        uint64_t seed = (uint64_t)number(argv[5]), first = 0;
        int32_t failed = 0;
        for (int32_t format = 0; format < TABLE_FORMATS; ++format)
            if (wanted(formats[format].name, argc, argv))
                failed |= report(formats[format].name, cases, check_panels(reference, tested, format, cases, seed, &first), &first);
        /* A case of attention is hundreds of times the work of a panel's. */
        int64_t fewer = (cases + 49) / 50;
        for (int32_t type = 0; type < TABLE_KV_TYPES; ++type) {
            char op[64];
            snprintf(op, sizeof op, "attention_%s", kv_type_names[type]);
            if (wanted(op, argc, argv))
                failed |= report(op, fewer, check_attention(reference, tested, type, fewer, seed, &first), &first);
        }
        if (wanted("rows", argc, argv))
            failed |= report("rows", cases, check_rows(reference, tested, cases, seed, &first), &first);
        if (wanted("threadpool", argc, argv))
            failed |= report("threadpool", fewer, check_threadpool(fewer, seed, &first), &first);
        return failed;
    }
    if (argc == 7 && strcmp(argv[1], "bench") == 0)
        return bench(find(argv[2]), find(argv[3]), (int32_t)number(argv[4]), (int32_t)number(argv[5]), number(argv[6]));
    fprintf(stderr, "usage: check check REFERENCE TESTED CASES SEED [OP...]\n"
                    "       check bench REFERENCE TESTED THREADS ROUNDS DRAM_BYTES\n");
    return 2;
}

/* Runs a bundle's emitted C as a program, for the sanitizers: steps of mixed
 * sequences over weights in exactly-sized heap memory; prints the logits' bytes as FNV-1a. */
#include <stdio.h>

#include "engine.c"

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    const int32_t threads = atoi(argv[2]);
    engine_limits limits;
    engine_describe(&limits);
    uint8_t *weights = aligned_alloc(4096, limits.weights_bytes);
    FILE *file = fopen(argv[1], "rb");
    if (!file || fread(weights, 1, limits.weights_bytes, file) != limits.weights_bytes)
        return 3;
    fclose(file);
    engine *e;
    if (engine_open(weights, limits.weights_bytes, threads, &e) != ENGINE_OK)
        return 4;

    /* Each slot has pages of its own, one apart from the next. */
    const int32_t tables = limits.slots * limits.page_groups * limits.page_blocks;
    int32_t *pages = malloc((size_t)tables * 4);
    for (int32_t i = 0; i < tables; i++)
        pages[i] = i / (limits.page_groups * limits.page_blocks) + i % limits.page_blocks * limits.slots;
    uint64_t hash = 0xcbf29ce484222325u;
    const int32_t counts[][2] = {{5, 0}, {1, 3}, {1, 1}, {7, 1}, {0, 2}};   /* tokens of slots 0 and 1 a step */
    int32_t at[2] = {0, 0};
    for (size_t s = 0; s < sizeof counts / sizeof *counts; s++) {
        const int32_t n = counts[s][0] + counts[s][1];
        int32_t *slot = malloc((size_t)n * 4), *position = malloc((size_t)n * 4), *token = malloc((size_t)n * 4);
        uint8_t *want = malloc((size_t)n);
        for (int32_t i = 0; i < n; i++) {
            slot[i] = i >= counts[s][0];
            position[i] = at[slot[i]]++;
            token[i] = (position[i] * 37 + slot[i] * 11) % limits.n_vocab;
            want[i] = 1;
        }
        float *logits = malloc((size_t)n * (size_t)limits.n_vocab * 4);
        if (engine_forward(e, n, slot, position, token, want, pages, logits) != ENGINE_OK)
            return 5;
        for (size_t i = 0; i < (size_t)n * (size_t)limits.n_vocab * 4; i++)
            hash = (hash ^ ((uint8_t *)logits)[i]) * 0x100000001b3u;
        float *scratch = malloc((size_t)limits.n_vocab * 16);
        const engine_sampling params = {.temperature = 0.8f, .top_k = 5, .top_p = 0.9f, .min_p = 0.01f,
                                        .typical_p = 1, .repetition_penalty = 1.1f, .seed = 7};
        engine_choice choice;
        if (engine_sample(logits, limits.n_vocab, &params, token, n, NULL, NULL, 0, NULL, NULL, s, scratch, &choice) != ENGINE_OK)
            return 6;
        free(scratch), free(logits), free(want), free(token), free(position), free(slot);
    }
    printf("%016llx\n", (unsigned long long)hash);
    free(pages);
    engine_close(e);
    free(weights);
    return 0;
}

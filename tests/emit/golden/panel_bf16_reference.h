/* bf16 panel of 16 rows, K = 512. Per block of 256 (the last may be shorter) a chain of fma
 * over k ascending from 0; blocks added ascending. */
static void panel_bf16_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    const uint16_t *w = (const uint16_t *)panel;
    (void)scratch;
    for (int32_t t = 0; t < nt; ++t) {
        const float *x = a->x + (int64_t)(t0 + t) * 512;
        for (int32_t row = 0; row < 16; ++row) {
            float sum = 0.0f;
            for (int32_t first = 0; first < 512; first += 256) {
                float block = 0.0f;
                for (int32_t i = first; i < first + 256 && i < 512; ++i)
                    block = fma_f32(bfloat_to_float(w[i * 16 + row]), x[i], block);
                sum = sum + block;
            }
            acc[t * 16 + row] = sum;
        }
    }
}

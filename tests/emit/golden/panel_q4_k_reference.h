/* Q4_K panel of 16 rows, K = 512. With I = sum of scale * code * a and M = sum of min * a,
 * both exact in int32, per block of 256 ascending:
 *   t = fma(-dmin, float(M), d * float(I));  acc = fma(da, t, acc) */
static void panel_q4_k_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    const packed_q4_k *block = (const packed_q4_k *)panel;
    (void)scratch;
    for (int32_t t = 0; t < nt; ++t)
        for (int32_t row = 0; row < 16; ++row) {
            float sum = 0.0f;
            for (int32_t b = 0; b < 2; ++b) {
                int64_t at = (int64_t)b * a->n_tokens + t0 + t;
                const int8_t *codes = a->codes + at * 256;
                int32_t products = 0, minima = 0;
                for (int32_t i = 0; i < 256; ++i) {
                    products += q4_k_scale(&block[b], row, i / 32) * q4_k_code(&block[b], row, i) * codes[i];
                    minima += q4_k_min(&block[b], row, i / 32) * codes[i];
                }
                float term = half_to_float(block[b].d[row]) * (float)products;
                term = fma_f32(-half_to_float(block[b].dmin[row]), (float)minima, term);
                sum = fma_f32(a->scales[at], term, sum);
            }
            acc[t * 16 + row] = sum;
        }
}

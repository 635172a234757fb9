/* Q6_K panel of 16 rows, K = 512. With I = sum of scale * (code - 32) * a, exact in int32,
 * per block of 256 ascending:  acc = fma(da, d * float(I), acc) */
static void panel_q6_k_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    (void)scratch;
    for (int32_t t = 0; t < nt; ++t)
        for (int32_t row = 0; row < 16; ++row) {
            float sum = 0.0f;
            for (int32_t b = 0; b < 2; ++b) {
                const packed_q6_k *block = block_q6_k(panel, b);
                float d = half_to_float(scales_q6_k(panel, b)[row]);
                int64_t at = (int64_t)b * a->n_tokens + t0 + t;
                const int8_t *codes = a->codes + at * 256;
                int32_t products = 0;
                for (int32_t i = 0; i < 256; ++i)
                    products += q6_k_scale(block, row, i / 16) * (q6_k_code(block, row, i) - 32) * codes[i];
                float term = d * (float)products;
                sum = fma_f32(a->scales[at], term, sum);
            }
            acc[t * 16 + row] = sum;
        }
}

/* Q5_0 panel of 16 rows, K = 512. With I = sum of (code - 16) * a, exact in int32, per block
 * of 32 ascending:  acc = fma(d * da, float(I), acc) */
static void panel_q5_0_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    (void)scratch;
    for (int32_t t = 0; t < nt; ++t)
        for (int32_t row = 0; row < 16; ++row) {
            float sum = 0.0f;
            for (int32_t b = 0; b < 16; ++b) {
                const packed_q5_0 *block = block_q5_0(panel, b);
                float d = half_to_float(scales_q5_0(panel, b)[row]);
                int64_t at = (int64_t)b * a->n_tokens + t0 + t;
                const int8_t *codes = a->codes + at * 32;
                int32_t products = 0;
                for (int32_t i = 0; i < 32; ++i)
                    products += (q5_0_code(block, row, i) - 16) * codes[i];
                sum = fma_f32(d * a->scales[at], (float)products, sum);
            }
            acc[t * 16 + row] = sum;
        }
}

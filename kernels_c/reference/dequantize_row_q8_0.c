/* dequantize_row_q8_0.c: one row of a packed q8_0 matrix as floats. */
static void dequantize_row_q8_0(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q8_0(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(scales_q8_0(panel, i / 32)[r])
                 * (float)block_q8_0(panel, i / 32)->q[i % 32 / 4][chunk_byte(r, i)];
}

/* dequantize_row_f32.c: one row of a packed f32 matrix as floats. */
static void dequantize_row_f32(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const float *panel = (const float *)(panels + row / 16 * panel_bytes_f32(k));
    for (int32_t i = 0; i < k; ++i)
        out[i] = panel[(int64_t)i * 16 + row % 16];
}

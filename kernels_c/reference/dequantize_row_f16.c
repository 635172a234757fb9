/* dequantize_row_f16.c: one row of a packed f16 matrix as floats. */
static void dequantize_row_f16(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint16_t *panel = (const uint16_t *)(panels + row / 16 * panel_bytes_f16(k));
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(panel[(int64_t)i * 16 + row % 16]);
}

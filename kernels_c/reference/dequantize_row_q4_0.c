/* dequantize_row_q4_0.c: one row of a packed q4_0 matrix as floats. */
static inline int32_t q4_0_code(const packed_q4_0 *b, int32_t row, int32_t k)
{
    int32_t chunk = k / 4, at = chunk_byte(row, k);
    uint8_t low = b->q[chunk % 4][at];
    return chunk < 4 ? low & 15 : low >> 4;
}

static void dequantize_row_q4_0(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q4_0(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(scales_q4_0(panel, i / 32)[r])
                 * (float)(q4_0_code(block_q4_0(panel, i / 32), r, i % 32) - 8);
}

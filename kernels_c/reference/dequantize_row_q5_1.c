/* dequantize_row_q5_1.c: one row of a packed q5_1 matrix as floats. */
static inline int32_t q5_1_code(const packed_q5_1 *b, int32_t row, int32_t k)
{
    int32_t chunk = k / 4, at = chunk_byte(row, k);
    uint8_t low = b->q[chunk % 4][at];
    return (chunk < 4 ? low & 15 : low >> 4) | (b->high[at] >> chunk & 1) << 4;
}

static void dequantize_row_q5_1(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q5_1(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i) {
        const packed_q5_1 *b = block_q5_1(panel, i / 32);
        out[i] = half_to_float(b->d[r]) * (float)q5_1_code(b, r, i % 32) + half_to_float(b->m[r]);
    }
}

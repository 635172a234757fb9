/* dequantize_row_q3_k.c: one row of a packed q3_k matrix as floats. */
static inline int32_t q3_k_scale(const packed_q3_k *b, int32_t row, int32_t g)
{
    int32_t low = b->scales[g % 8][row] >> (g / 8 * 4) & 15, high = b->scales[8 + g % 4][row] >> (g / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

/* k within the block, 0..255. */
static inline int32_t q3_k_code(const packed_q3_k *b, int32_t row, int32_t k)
{
    int32_t at = chunk_byte(row, k), low = b->q[k / 16][at] >> (2 * (k % 16 / 4)) & 3;
    return low | (b->high[k / 32][at] >> (k % 32 / 4) & 1) << 2;
}

static void dequantize_row_q3_k(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q3_k(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i) {
        const packed_q3_k *b = block_q3_k(panel, i / 256);
        float scale = half_to_float(scales_q3_k(panel, i / 256)[r]) * (float)q3_k_scale(b, r, i % 256 / 16);
        out[i] = scale * (float)(q3_k_code(b, r, i % 256) - 4);
    }
}

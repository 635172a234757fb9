/* dequantize_row_q5_k.c: one row of a packed q5_k matrix as floats. */
static inline int32_t q5_k_scale(const packed_q5_k *b, int32_t row, int32_t j)
{
    return (b->low[j][row] & 15) | (b->high[j % 4][row] >> (j < 4 ? 0 : 2) & 3) << 4;
}

static inline int32_t q5_k_min(const packed_q5_k *b, int32_t row, int32_t j)
{
    return b->low[j][row] >> 4 | (b->high[j % 4][row] >> (j < 4 ? 4 : 6) & 3) << 4;
}

/* k within the block, 0..255. */
static inline int32_t q5_k_code(const packed_q5_k *b, int32_t row, int32_t k)
{
    int32_t j = k / 32, c = k % 32 / 4, at = chunk_byte(row, k);
    return (b->ql[j][c / 2][at] >> (c % 2 * 4) & 15) | (b->qh[j][at] >> c & 1) << 4;
}

static void dequantize_row_q5_k(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const packed_q5_k *block = (const packed_q5_k *)(panels + row / 16 * panel_bytes_q5_k(k));
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i) {
        const packed_q5_k *b = block + i / 256;
        float scale = half_to_float(b->d[r]) * (float)q5_k_scale(b, r, i % 256 / 32);
        float min = half_to_float(b->dmin[r]) * (float)q5_k_min(b, r, i % 256 / 32);
        float product = scale * (float)q5_k_code(b, r, i % 256);
        out[i] = product - min;
    }
}

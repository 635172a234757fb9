/* dequantize_row_q2_k.c: one row of a packed q2_k matrix as floats. */
/* k within the block, 0..255. */
static inline int32_t q2_k_code(const packed_q2_k *b, int32_t row, int32_t k)
{
    return b->q[k / 16][chunk_byte(row, k)] >> (2 * (k % 16 / 4)) & 3;
}

static void dequantize_row_q2_k(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const packed_q2_k *block = (const packed_q2_k *)(panels + row / 16 * panel_bytes_q2_k(k));
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i) {
        const packed_q2_k *b = block + i / 256;
        uint8_t scales = b->scales[i % 256 / 16][r];
        float scale = half_to_float(b->d[r]) * (float)(scales & 15);
        float min = half_to_float(b->dmin[r]) * (float)(scales >> 4);
        float product = scale * (float)q2_k_code(b, r, i % 256);
        out[i] = product - min;
    }
}

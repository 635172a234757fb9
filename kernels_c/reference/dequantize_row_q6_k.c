/* dequantize_row_q6_k.c: one row of a packed q6_k matrix as floats. */
static inline int32_t q6_k_scale(const packed_q6_k *b, int32_t row, int32_t group)
{
    return b->quarter[group / 4].scales[group % 4][row];
}

static inline int32_t q6_k_code(const packed_q6_k *b, int32_t row, int32_t k)
{
    const packed_q6_k_group *group = &b->quarter[k / 64].group[k % 64 / 16];
    int32_t chunk = k % 16 / 4, at = chunk_byte(row, k);
    uint8_t low = group->ql[chunk / 2][at];
    return (chunk % 2 ? low >> 4 : low & 15) | (group->qh[at] >> (2 * chunk) & 3) << 4;
}

static void dequantize_row_q6_k(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q6_k(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i) {
        const packed_q6_k *b = block_q6_k(panel, i / 256);
        float scale = half_to_float(scales_q6_k(panel, i / 256)[r]) * (float)q6_k_scale(b, r, i % 256 / 16);
        out[i] = scale * (float)(q6_k_code(b, r, i % 256) - 32);
    }
}

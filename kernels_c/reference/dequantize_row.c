/* dequantize_row.c: one weight, and one row, of a packed matrix as floats.
 * Element (row, k) of a chunk is byte row * 4 + k % 4. */
static inline int32_t chunk_byte(int32_t row, int32_t k) { return row * 4 + k % 4; }

static inline int32_t q4_k_scale(const packed_q4_k *b, int32_t row, int32_t j)
{
    return (b->low[j][row] & 15) | (b->high[j % 4][row] >> (j < 4 ? 0 : 2) & 3) << 4;
}

static inline int32_t q4_k_min(const packed_q4_k *b, int32_t row, int32_t j)
{
    return b->low[j][row] >> 4 | (b->high[j % 4][row] >> (j < 4 ? 4 : 6) & 3) << 4;
}

/* k within the block, 0..255. */
static inline int32_t q4_k_code(const packed_q4_k *b, int32_t row, int32_t k)
{
    uint8_t byte = b->q[k / 64 * 8 + k % 32 / 4][chunk_byte(row, k)];
    return k % 64 < 32 ? byte & 15 : byte >> 4;
}

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

static inline int32_t q5_0_code(const packed_q5_0 *b, int32_t row, int32_t k)
{
    int32_t chunk = k / 4, at = chunk_byte(row, k);
    uint8_t low = b->q[chunk % 4][at];
    return (chunk < 4 ? low & 15 : low >> 4) | (b->high[at] >> chunk & 1) << 4;
}

static void dequantize_row_f32(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const float *panel = (const float *)(panels + row / 16 * panel_bytes_f32(k));
    for (int32_t i = 0; i < k; ++i)
        out[i] = panel[(int64_t)i * 16 + row % 16];
}

static void dequantize_row_f16(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint16_t *panel = (const uint16_t *)(panels + row / 16 * panel_bytes_f16(k));
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(panel[(int64_t)i * 16 + row % 16]);
}

static void dequantize_row_bf16(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint16_t *panel = (const uint16_t *)(panels + row / 16 * panel_bytes_bf16(k));
    for (int32_t i = 0; i < k; ++i)
        out[i] = bfloat_to_float(panel[(int64_t)i * 16 + row % 16]);
}

static void dequantize_row_q4_k(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const packed_q4_k *block = (const packed_q4_k *)(panels + row / 16 * panel_bytes_q4_k(k));
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i) {
        const packed_q4_k *b = block + i / 256;
        float scale = half_to_float(b->d[r]) * (float)q4_k_scale(b, r, i % 256 / 32);
        float min = half_to_float(b->dmin[r]) * (float)q4_k_min(b, r, i % 256 / 32);
        float product = scale * (float)q4_k_code(b, r, i % 256);
        out[i] = product - min;
    }
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

static void dequantize_row_q8_0(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q8_0(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(scales_q8_0(panel, i / 32)[r])
                 * (float)block_q8_0(panel, i / 32)->q[i % 32 / 4][chunk_byte(r, i)];
}

static void dequantize_row_q5_0(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_q5_0(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(scales_q5_0(panel, i / 32)[r])
                 * (float)(q5_0_code(block_q5_0(panel, i / 32), r, i % 32) - 16);
}

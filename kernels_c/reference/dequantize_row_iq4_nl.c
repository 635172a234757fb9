/* dequantize_row_iq4_nl.c: one row of a packed iq4_nl matrix as floats. */
static inline int32_t iq4_nl_value(const packed_iq4_nl *b, int32_t row, int32_t k)
{
    static const int8_t value[16] = {IQ4_NL_VALUES};
    int32_t chunk = k / 4;
    uint8_t both = b->q[chunk % 4][chunk_byte(row, k)];
    return value[chunk < 4 ? both & 15 : both >> 4];
}

static void dequantize_row_iq4_nl(const uint8_t *panels, int64_t row, int32_t k, float *out)
{
    const uint8_t *panel = panels + row / 16 * panel_bytes_iq4_nl(k);
    int32_t r = (int32_t)(row % 16);
    for (int32_t i = 0; i < k; ++i)
        out[i] = half_to_float(scales_iq4_nl(panel, i / 32)[r])
                 * (float)iq4_nl_value(block_iq4_nl(panel, i / 32), r, i % 32);
}

/* pack_bf16.c: bf16 rows into a panel (packed_bf16.h). */
#include "pack.h"
#include "packed_bf16.h"

void pack_bf16(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    pack_16_bits(rows16, row_bytes, k, panel, panel_bytes_bf16(k));
}

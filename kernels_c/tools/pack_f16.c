/* pack_f16.c: f16 rows into a panel (packed_f16.h). */
#include "pack.h"
#include "packed_f16.h"

void pack_f16(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    pack_16_bits(rows16, row_bytes, k, panel, panel_bytes_f16(k));
}

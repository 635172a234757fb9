/* pack_f32.c: f32 rows into a panel (packed_f32.h). */
#include "pack.h"
#include "packed_f32.h"

void pack_f32(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel)
{
    for (int64_t i = 0; i < k; ++i)
        for (int64_t row = 0; row < 16; ++row)
            memcpy(panel + (i * 16 + row) * 4, rows16 + row * row_bytes + i * 4, 4);
}

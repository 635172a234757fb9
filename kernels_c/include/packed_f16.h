/* packed_f16.h: [k][16] elements, padded to 64 bytes at the end. */
#ifndef PACKED_F16_H
#define PACKED_F16_H
#include "packed.h"

static inline int64_t panel_bytes_f16(int64_t k) { return (k * 32 + 63) / 64 * 64; }
#endif

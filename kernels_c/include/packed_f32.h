/* packed_f32.h: [k][16] elements. */
#ifndef PACKED_F32_H
#define PACKED_F32_H
#include "packed.h"

static inline int64_t panel_bytes_f32(int64_t k) { return k * 64; }
#endif

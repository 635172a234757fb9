/* chunk.h: where a code stands in a chunk of 4 k of 16 rows (packed.h). */
#ifndef CHUNK_H
#define CHUNK_H
#include <stdint.h>

/* Element (row, k) of a chunk is byte row * 4 + k % 4. */
static inline int32_t chunk_byte(int32_t row, int32_t k) { return row * 4 + k % 4; }
#endif

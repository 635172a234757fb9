/* packed.h: the packed panels of 16 rows.
 *
 * A chunk is 64 bytes: 4 consecutive k of 16 rows, byte [row * 4 + k % 4]. Rows
 * are lanes, so a row's sum never crosses lanes. Rows that a tensor lacks are
 * zero, scales included. All panels are multiples of 64 bytes and 64-byte
 * aligned. fp16 values are stored as their bits.
 *
 * A format's own layout is in packed_<format>.h: the struct of a block, a static assert of its
 * size, and panel_bytes_<format>(k).
 *
 * A pair is the scales of two blocks, [2][16] fp16, and then the blocks; the last
 * pair may lack its second block. So codes stay aligned, a panel is the size of the
 * GGUF blocks it came from, and a kernel reads it front to back without a second
 * stream: hardware prefetchers follow one line well and several badly. */
#ifndef PACKED_H
#define PACKED_H
#include <stdint.h>

#define PANEL_ROWS 16

/* Bytes of `blocks` blocks of `size` bytes in pairs; block b and its scales [16] among them. */
static inline int64_t paired_bytes(int64_t blocks, int64_t size) { return (blocks + 1) / 2 * 64 + blocks * size; }
static inline const uint8_t *paired_block(const uint8_t *panel, int64_t b, int64_t size)
{
    return panel + b / 2 * (64 + 2 * size) + 64 + b % 2 * size;
}
static inline const uint16_t *paired_scales(const uint8_t *panel, int64_t b, int64_t size)
{
    return (const uint16_t *)(panel + b / 2 * (64 + 2 * size) + b % 2 * 32);
}
#define PAIRED(format)                                                                                        \
    static inline const packed_##format *block_##format(const uint8_t *panel, int64_t b)                      \
    {                                                                                                         \
        return (const packed_##format *)paired_block(panel, b, sizeof(packed_##format));                      \
    }                                                                                                         \
    static inline const uint16_t *scales_##format(const uint8_t *panel, int64_t b)                            \
    {                                                                                                         \
        return paired_scales(panel, b, sizeof(packed_##format));                                              \
    }
#endif

/* packed_iq4_nl.h: pairs of packed_iq4_nl. */
#ifndef PACKED_IQ4_NL_H
#define PACKED_IQ4_NL_H
#include "packed.h"

/* q[c]: low nibbles chunk c (k = 4c .. +3), high nibbles chunk c+4; each an index of IQ4_NL_VALUES. */
typedef struct {
    uint8_t q[4][64];
} packed_iq4_nl;
_Static_assert(sizeof(packed_iq4_nl) == 16 * 16, "an iq4_nl panel block is 16 GGUF blocks without d");

/* The 16 values of a code: dense near zero, where most weights lie. */
#define IQ4_NL_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113

PAIRED(iq4_nl)
static inline int64_t panel_bytes_iq4_nl(int64_t k) { return paired_bytes(k / 32, sizeof(packed_iq4_nl)); }
#endif

/* scales_of_6.h: eight scales and minima of six bits in twelve bytes, as Q4_K and Q5_K hold them. */
#ifndef ENGINE_SCALES_OF_6_H
#define ENGINE_SCALES_OF_6_H
#include "lanes.h"

static inline void pack_scales_of_6(lanes scs, lanes ms, uint8_t *out)
{
    memset(out, 0, 12);
    for (int j = 0; j < 8; j++) {
        uint8_t sc = (uint8_t)scs[j], m = (uint8_t)ms[j];
        if (j < 4) {
            out[j] = sc;
            out[j + 4] = m;
        } else {
            out[j + 4] = (uint8_t)((sc & 15) | (m & 15) << 4);
            out[j - 4] |= (uint8_t)((sc >> 4) << 6);
            out[j] |= (uint8_t)((m >> 4) << 6);
        }
    }
}

static inline int scale_of_6(const uint8_t *s, int j)
{
    return j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
}

static inline int min_of_6(const uint8_t *s, int j) { return j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4; }
#endif

/* tiles.c: whether the tile registers of this machine can be used, by a product that is known. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "tile_ops.c"

#pragma GCC visibility push(default)
/* cdef-begin */
const char *obstacle(void); /* why not, or NULL */
/* cdef-end */
#pragma GCC visibility pop

const char *obstacle(void) { return tile_unusable(); }

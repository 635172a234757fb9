/* tiles_avx512.h: tokens that a panel kernel of floats holds in registers at a time (those of blocks name theirs themselves). */
#define FLOAT_TOKENS 8
/* Tiles of 16 tokens, or of 16 values, that attention takes at a time for so many rows (at most 4). */
#define ATTENTION_WIDE(rows) ((rows) <= 4 ? 4 : 1)

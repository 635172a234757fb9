/* tiles_avx2.h: tokens that a panel kernel holds in registers at a time. */
#define FLOAT_TOKENS 6
#define Q4_K_TOKENS 4
#define Q6_K_TOKENS 4
#define Q8_0_TOKENS 4
#define Q5_0_TOKENS 4
/* Tiles of 16 tokens, or of 16 values, that attention takes at a time for so many rows (at most 4). */
#define ATTENTION_WIDE(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)

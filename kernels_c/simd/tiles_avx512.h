/* tiles_avx512.h: tokens that a panel kernel holds in registers at a time. */
#define FLOAT_TOKENS 8
#define Q4_K_TOKENS 8
#define Q6_K_TOKENS 8
#define Q8_0_TOKENS 8
#define Q5_0_TOKENS 8
/* v16 sums that attention holds: rows times tiles of 16 tokens, or of 16 values. */
#define ATTENTION_SUMS 16

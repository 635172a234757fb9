/* bf16.c: panels of bf16 weights. */
FLOAT_PANEL(bf16, uint16_t, v16_load_bf16)

/* f16.c: panels of f16 weights. */
FLOAT_PANEL(f16, uint16_t, v16_load_f16)

/* f32.c: panels of f32 weights. */
FLOAT_PANEL(f32, float, v16_load)

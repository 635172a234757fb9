/* f32 panel of 16 rows, K = 512; see reference/panel_f32.c.j2 for what it computes. */
static void panel_f32_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    (void)scratch;
    f32_panel(panel, 512, a, t0, nt, acc);
}

/* f16 panel of 16 rows, K = 512; see reference/panel_f16.c.j2 for what it computes. */
static void panel_f16_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    (void)scratch;
    f16_panel(panel, 512, a, t0, nt, acc);
}

/* q6_k panel of 16 rows, K = 512; see reference/panel_q6_k.c.j2 for what it computes. */
static void panel_q6_k_k512(const uint8_t *panel, const activations *a, int32_t t0, int32_t nt,
                       float *acc, uint8_t *scratch)
{
    q6_k_panel(panel, 512, a, t0, nt, acc, scratch);
}

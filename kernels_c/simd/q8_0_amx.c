/* q8_0_amx.c: Q8_0 panels over tiles: a block's chunks are a tile of weights as they are stored. */
#define Q8_0_AMX_TOKENS 16   /* a tile */

V16 const int8_t *q8_0_amx_codes(const uint8_t *panel, int32_t b, int8_t (*plane)[64])
{
    (void)plane;
    return block_q8_0(panel, b)->q[0];
}

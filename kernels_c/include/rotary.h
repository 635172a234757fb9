/* rotary.h: the rotation tables, built when a bundle is opened.
 *
 * sin and cos in double from a three-part reduction by pi/2 (Cody and Waite) and
 * Taylor polynomials on [-pi/4, pi/4]: only + - * and exact steps, so every
 * machine builds the same bits. For angles below 2^24 the reduced argument is
 * good to 1e-11, far below a float's last place. */
#ifndef ROTARY_H
#define ROTARY_H

#define PIO2_1 0x1.921fb544p+0        /* 33 bits of pi/2: k * PIO2_1 is exact for k < 2^20 */
#define PIO2_2 0x1.0b4611a6p-34
#define PIO2_3 0x1.3198a2e037073p-69

static void sin_cos(double x, double *sine, double *cosine)
{
    const double k = __builtin_floor(x * 0x1.45f306dc9c883p-1 + 0.5);
    const double r = ((x - k * PIO2_1) - k * PIO2_2) - k * PIO2_3;
    const double z = r * r;
    double s = -1.0 / 1307674368000.0, c = 1.0 / 20922789888000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = r + r * (z * s);
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = (1.0 - 0.5 * z) + z * z * c;
    const int64_t quadrant = (int64_t)k & 3;
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

/* out: [CONTEXT][pairs][2], (cos, sin) * mscale of position * inverse[i]. */
static void rotary_table(const double *inverse, int32_t pairs, double mscale, float *out)
{
    for (int32_t p = 0; p < CONTEXT; p++)
        for (int32_t i = 0; i < pairs; i++) {
            double sine, cosine;
            sin_cos((double)p * inverse[i], &sine, &cosine);
            out[((int64_t)p * pairs + i) * 2] = (float)(cosine * mscale);
            out[((int64_t)p * pairs + i) * 2 + 1] = (float)(sine * mscale);
        }
}
#endif

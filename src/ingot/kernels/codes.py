"""The numbers that a code of four bits stands for, apart from what computes with them: a plan needs no torch."""

#: Quantiles of a normal distribution, scaled to [-1, 1], and zero (Dettmers et al. 2023, arXiv:2305.14314, app. E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
#: bitsandbytes' FP4: a sign, then 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4. Zero has no sign.
FP4 = tuple(sign * value or 0.0 for sign in (1, -1) for value in (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4))
#: E2M1 of MXFP4 and NVFP4: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats v1.0, 5.3.3).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
#: Four bits as integers around their middle.
INT4 = tuple(float(number) for number in range(-8, 8))

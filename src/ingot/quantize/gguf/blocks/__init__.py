"""Quantizers in numpy, a file for each family of types; their bytes are those of ggml's default build for x86-64.

block         what they share: checks, and a function that codes blocks
floats        F32, F16, BF16
legacy        blocks of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4
affine_k      Q4_K, Q5_K
symmetric_k   Q6_K
nearest       ggml's rounding
"""

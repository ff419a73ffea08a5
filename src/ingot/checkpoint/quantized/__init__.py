"""A quantized checkpoint seen as the dense tensors that its owner's library would dequantize it to.

encoded             Encoded: a dense tensor made of parts on disk, and how: plain data, nothing is read
detect              quantization_config and names -> which tensors are encoded, which are left as they are
bitsandbytes        nf4, fp4, with and without nested absmax; int8
gptq, awq           integers packed along another axis than the dense rows
fp8                 one scale for a tensor, a row, or a block
mxfp4, nvfp4        4-bit floats in blocks of 32 or 16
compressed_tensors  all of these under names of its own
packing             bits to numbers: what several of them share

No library of a quantizer is imported. The formulas are a few lines each; tests hold them against the libraries, bit for
bit.
"""

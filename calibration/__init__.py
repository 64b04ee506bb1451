"""Search on data: statistics of tensors, ranges, and the choice of layers to quantize."""

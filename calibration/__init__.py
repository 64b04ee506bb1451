"""Measures tensors of a running pipeline and decides what may be quantized."""

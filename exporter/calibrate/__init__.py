"""Chooses the quantized layers of each precision by generating images."""

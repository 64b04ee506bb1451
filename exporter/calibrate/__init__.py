"""Chooses, for each precision, what is quantized and what stays in float: by generation images."""

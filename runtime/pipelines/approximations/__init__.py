"""Runs with fewer calls of the denoiser: their image is not that of the exact loop, so each is off by default."""

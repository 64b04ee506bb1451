"""Configs of known checkpoints, for random weights: diffusers folders without weights."""

"""Names of the graphs that a network is cut into."""

__all__ = [
    "BODY",
    "CONDITIONING",
    "HEAD",
    "INNER",
    "LATENTS",
    "OUTER",
    "PRELUDE",
    "SKIPPED",
    "STEP",
    "TAIL",
    "TIMES",
    "TIMESTEPS",
]

LATENTS = ("sample", "hidden_states")
"""Inputs of denoisers that change in every step. The names are those of diffusers' `forward`."""

TIMESTEPS = ("timestep", "timestep_ratio", "r")
"""Inputs of denoisers that change with the timestep."""

TIMES = "timesteps"
"""Size of a timestep that takes several: one number for each row of the batch."""

CONDITIONING = "conditioning"
"""Part whose values change only with the prompts, images and other inputs of a call."""

PRELUDE = "prelude"
"""Part whose values also change with the timestep, and are one row of numbers for each row of the batch."""

STEP = "step"
"""Part whose values change with the latents."""

INNER = "inner"
"""Part of a split UNet below its outermost skip."""

OUTER = "outer"
"""Part of a split UNet around the inner one, whose result it reads."""

HEAD = "head"
"""First part of a split transformer: its embeddings and its first block."""

BODY = "body"
"""Part of a split transformer with its other blocks."""

TAIL = "tail"
"""Last part of a split transformer: its last norm and projection."""

SKIPPED = (INNER, BODY)
"""Parts of split networks that a cache leaves out in some steps."""

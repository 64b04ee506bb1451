"""diffusers' own pipeline: what a bundle is verified against and measured beside."""

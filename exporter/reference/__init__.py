"""diffusers' own pipeline, for verification and as a baseline in benchmarks."""

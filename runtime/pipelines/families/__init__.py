"""One file a family: the conversion of prompts to inputs of the denoiser, and the defaults of its pipelines."""

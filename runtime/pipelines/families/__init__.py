"""One file a family: how prompts become inputs of the denoiser, and where its pipelines differ from others."""

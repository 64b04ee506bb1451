"""Edits and maps of a UNet's attention while it denoises: Prompt-to-Prompt, heat maps."""

"""Convert prompts to token ids without transformers."""

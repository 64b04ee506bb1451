"""Prompts to token ids, without transformers."""

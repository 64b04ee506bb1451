"""Formulas that several schedulers share: betas, noise levels, spacing, predictions, solver updates."""

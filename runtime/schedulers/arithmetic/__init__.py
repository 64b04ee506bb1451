"""What several schedulers compute alike: betas, noise levels, predictions, updates, noise; each stands once."""

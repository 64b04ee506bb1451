"""Build time: turns a PyTorch checkpoint into a bundle. The only layer that imports torch."""

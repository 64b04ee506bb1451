"""Build time: a PyTorch checkpoint goes in, a bundle comes out. The only layer that imports torch."""

"""PyTorch's side of a verification."""

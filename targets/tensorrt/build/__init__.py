"""Build time: lowers portable graphs to engines of TensorRT and TensorRT for RTX."""

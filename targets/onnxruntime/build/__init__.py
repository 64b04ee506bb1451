"""Build time: lowers portable graphs to engines of ONNX Runtime."""

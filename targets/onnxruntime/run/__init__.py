"""Run time: opens and runs engines of ONNX Runtime; loads no graph library."""

"""Run time: opens and runs engines of TensorRT and TensorRT for RTX; loads no graph library."""

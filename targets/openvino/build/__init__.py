"""Build time: lowers portable graphs to engines of OpenVINO."""

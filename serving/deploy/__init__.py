"""Folders that other servers open: Triton Inference Server, OpenVINO Model Server, Docker."""

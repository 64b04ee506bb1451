"""Serves pipelines to other processes and machines: HTTP, Ray, Triton."""

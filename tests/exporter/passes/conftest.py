"""Shared fixtures of the graph tests."""

from tests.graph_transforms import numbers, ops, transform

__all__ = ["numbers", "ops", "transform"]

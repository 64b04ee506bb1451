"""Helpers for tests of graph passes."""

from tests.graph_transforms import numbers, ops, transform

__all__ = ["numbers", "ops", "transform"]

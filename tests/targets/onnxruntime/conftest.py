"""What tests of graphs share."""

from tests.graph_transforms import numbers, ops, transform

__all__ = ["numbers", "ops", "transform"]

"""The opset of every portable graph."""

__all__ = ["OPSET"]

OPSET = 23

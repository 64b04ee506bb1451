"""Request for one graph of a whole pipeline."""

from dataclasses import dataclass

__all__ = ["SINGLE_GRAPH", "SingleGraphRequest"]

SINGLE_GRAPH = "model.onnx"
"""File in the bundle's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleGraphRequest:
    """The loop of the graph.

    Attributes:
        steps: Number of steps; None for the default of the pipeline class.
        scheduler: Name of a scheduler, as `CommonInputs.scheduler`; None for the checkpoint's.
    """

    steps: int | None = None
    scheduler: str | None = None

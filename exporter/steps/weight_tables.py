"""Writes the weights of a network that the runtime reads itself, beside its graph."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights
from diffoundry.runtime.models.weight_tables import TABLES

__all__ = ["save_tables"]


def save_tables(module: torch.nn.Module, names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Write weights into `folder` in fp32 and return the names of the files: one, or none without weights.

    Args:
        module: The network.
        names: Names of its weights, as in `Component.tables`.
        folder: The component's folder in the bundle.
    """
    if not names:
        return ()
    weights, deferred = module.state_dict(), deferred_weights(module)
    save_file({name: deferred.read(weights[name]).float() for name in names}, folder / TABLES)
    return (TABLES,)

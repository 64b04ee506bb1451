"""Networks of diffusers as components, without a checkpoint: described by their config, traced, fed and run."""

import inspect
import json
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from diffoundry.exporter.component import Component, ComponentKind
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.passes import OPSET, optimize
from diffoundry.exporter.steps.trace import trace
from diffoundry.runtime.bundle.dims import parse_size, size_of

CLASSES = 5
"""Labels are below this."""


def config_of(network: Any) -> dict[str, Any]:
    """The config as a checkpoint's config.json holds it."""
    saved = json.loads(network.to_json_string())
    return dict(complete_config(saved, type(network).__name__))


def describe(kind: ComponentKind, network: Any, **neighbours: Any) -> Component:
    """The component of a network, beside the configs of other networks of its checkpoint."""
    return kind.describe({kind.source: config_of(network), **neighbours})


def portable_graph(network: Any, component: Component) -> ir.Model:
    """The graph that a bundle holds."""
    return optimize(trace(network.eval(), component, opset=OPSET))


def feeds_of(component: Component, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Noise for each input: `feeds_of(component, batch=3, height=8, width=6, sequence=5)`, sizes those of the image."""
    generator = np.random.default_rng(seed)
    sizes = {"batch": 1, "sequence": 7, **sizes}
    feeds = {}
    for spec in component.inputs:
        shape = [size_of(dim, sizes) or sizes[parse_size(str(dim)).symbol] for dim in spec.shape]
        if spec.name == "timestep":
            feeds[spec.name] = np.array([7.25], spec.dtype)  # 7 of whole numbers
        elif spec.dtype.startswith("int"):
            feeds[spec.name] = generator.integers(0, CLASSES, shape).astype(spec.dtype)
        elif len(shape) == 1:
            feeds[spec.name] = generator.uniform(1, 900, shape).astype(spec.dtype)
        else:
            feeds[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
    return feeds


def open_graph(graph: ir.Model) -> onnxruntime.InferenceSession:
    """ONNX Runtime over a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), options)


def call_network(network: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """PyTorch's answer, from a call as diffusers' pipelines make it."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    added = {name: tensors.pop(name) for name in ADDED if name in tensors}
    if "encoder_hidden_states" in inspect.signature(network.forward).parameters:
        tensors.setdefault("encoder_hidden_states", None)
        tensors["added_cond_kwargs"] = added
    with torch.no_grad():
        result: np.ndarray = network.eval()(**tensors).sample.numpy()
    return result


ADDED = ("image_embeds", "text_embeds", "hint", "time_ids")
"""Inputs that diffusers' forward takes in `added_cond_kwargs`."""


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Root of the mean squared difference, over that of the expected numbers."""
    assert got.shape == expected.shape
    difference = np.asarray(got, np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(np.asarray(expected, np.float64) ** 2)))

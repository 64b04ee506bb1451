"""Statistics of a built engine: fused attentions and norms, types of matrix products, memory."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from diffoundry.targets.tensorrt.build.layer_report import FusedLayer, read_layers, read_memory

__all__ = ["describe_structure"]

_NARROW = ("Int4", "Int8", "FP8")


def describe_structure(messages: Sequence[str], version: str, profiles: Sequence[str]) -> dict[str, Any]:
    """Counts for the manifest, from the log of a build.

    Args:
        messages: See `build_log.read_layers`.
        version: Of the library.
        profiles: Names of the optimization profiles; each is compiled separately.

    Returns:
        "weight_bytes", and "structure": profile to "layers"; "attentions_fused" and "group_norms_fused" (one kernel
        each); "convolutions" and "gemms", by the type that their numbers are multiplied in: "Half", "Int8", or
        "Half x Int8" where only the weights are narrow; "scratch_bytes" and "activation_bytes" on the GPU at the
        largest sizes.

    Raises:
        EngineError: The log does not have the form that is known.
    """
    layers, memory = read_layers(messages, version), read_memory(messages, version)
    structure = {}
    for number, name in enumerate(profiles):
        mine = [layer for layer in layers if layer.profile == number]
        structure[name] = {
            "layers": len(mine),
            "attentions_fused": sum(layer.name.startswith("_gemm_mha") for layer in mine),
            "group_norms_fused": sum("Gnor" in layer.name for layer in mine),
            "convolutions": _types(layer for layer in mine if layer.kind == "correlation"),
            "gemms": _types(layer for layer in mine if _is_gemm(layer)),
            "scratch_bytes": memory.scratch[number],
            "activation_bytes": memory.activations[number],
        }
    return {"structure": structure, "weight_bytes": memory.weights}


def _is_gemm(layer: FusedLayer) -> bool:
    """Return True for a matrix product, alone or fused into a kernel that is compiled when the engine loads."""
    return layer.kind == "gemm" or (layer.kind == "runtime_fusion" and "Fc" in layer.name)


def _types(layers: Iterable[FusedLayer]) -> dict[str, int]:
    return dict(sorted(Counter(_type(layer) for layer in layers).items()))


def _type(layer: FusedLayer) -> str:
    activations = layer.inputs[0] if layer.inputs else "none"
    narrow = next((kind for kind in layer.constants if kind in _NARROW), None)
    return activations if narrow in (None, activations) else f"{activations} x {narrow}"

"""Types that each GPU computes in; the build and the engine read this table."""

from collections.abc import Iterable, Mapping

__all__ = ["PRECISION_TYPES", "RTX_TYPES", "TENSORRT_TYPES", "describe", "native_precisions", "refusals"]

TENSORRT_TYPES: Mapping[str, int] = {"fp32": 75, "fp16": 75, "int8": 75, "bf16": 80, "int4": 80, "fp8": 89}
"""Type to the first compute capability (89 for 8.9) for which TensorRT builds it; it builds it for every later one."""

RTX_TYPES: Mapping[str, int] = {**TENSORRT_TYPES, "fp32": 80}
"""The same for TensorRT for RTX, which has no fp32 matrix products for Turing.

The tests put every cell of this table before the real builder."""

PRECISION_TYPES: Mapping[str, tuple[str, ...]] = {
    "fp8": ("fp16", "fp8"),
    "int8": ("fp16", "int8"),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "int8-weights": ("fp16", "int8"),
    "int4-weights": ("fp16", "int4"),
    "fp32": ("fp32",),
}
"""Precision to the types in its graph; the fastest first, as tensor cores reward them."""


def refusals(types: Iterable[str], capabilities: Iterable[int], table: Mapping[str, int]) -> list[str]:
    """Why these GPUs cannot compute in these types, a sentence for each type; empty when they can.

    Args:
        types: Of the table.
        capabilities: Of the GPUs, 89 for 8.9.
        table: Of the library.
    """
    asked = tuple(capabilities)
    reasons = []
    for name in dict.fromkeys(types):
        first = table[name]
        older = [describe(capability) for capability in asked if capability < first]
        if older:
            reasons.append(f"{', '.join(older)} cannot compute in {name}, which takes {describe(first)} or later")
    return reasons


def native_precisions(capability: int, table: Mapping[str, int]) -> tuple[str, ...]:
    """List the precisions that a GPU computes in natively, fastest first."""
    return tuple(name for name, types in PRECISION_TYPES.items() if not refusals(types, [capability], table))


def describe(capability: int) -> str:
    """A compute capability as it is typed: "sm89"."""
    return f"sm{capability}"

"""Results of calibration: ranges of tensors, and the nodes that compute in fewer bits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RANGES_VERSION", "ComponentChoice", "ComponentRanges", "QuantizationChoice", "TensorRanges"]

# One line a version of the ranges' files, newest first.
#   1: first format (2026-11). Read.
RANGES_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentChoice:
    """The quantized nodes of one component. With the portable graph and its ranges they reproduce the same graph.

    Attributes:
        quantized: Names of the nodes whose weights, and activations where the precision says so, are quantized.
        kept: Names of the nodes that could be and are not, to the cost of each: the image PSNR against fp32 in dB when
            it alone computes in the precision's type.
        fallback: Those of `quantized` whose weights are int8 where the precision says int4.
        observer: Measured ranges that clip the activations: "minmax", "percentile", "mse" or "entropy".
        smooth: Node to migration strength (0 to 1) of SmoothQuant scales; nodes without are not smoothed.
        low_rank: Node to rank of its branch in the float type beside the quantized rest; nodes without have none.
        float32: Names of the nodes that stay in float32 where the graph's floats are fp16 or bf16.
    """

    quantized: tuple[str, ...] = ()
    kept: Mapping[str, float] = field(default_factory=dict)
    fallback: tuple[str, ...] = ()
    observer: str = "minmax"
    smooth: Mapping[str, float] = field(default_factory=dict)
    low_rank: Mapping[str, int] = field(default_factory=dict)
    float32: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationChoice:
    """The choice of calibration for one precision of a bundle.

    Attributes:
        components: Component name to its quantized nodes; a component that is not named stays in float.
        psnr: Image PSNR against fp32 in dB over the held-out prompts, the mean; None when nothing was generated.
        worst_psnr: That of the worst image.
        budget: The budget in words, such as "image PSNR of at least 30 dB".
        min_psnr: The budget as mean image PSNR in dB, which `verify` checks. None for another kind of budget.
        prompts: Number of images from which the ranges and the ranking come.
        held_out: Number of other images from which `psnr` comes.
    """

    components: Mapping[str, ComponentChoice]
    psnr: float | None = None
    worst_psnr: float | None = None
    budget: str = ""
    min_psnr: float | None = None
    prompts: int = 0
    held_out: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRanges:
    """The values of one tensor while the float pipeline generated.

    Attributes:
        low: Smallest value of all.
        high: Largest value of all.
        cuts: Observer ("percentile", "mse", "entropy") to type of the grid ("int8", "uint8", "fp8") to the pair of
            limits it would quantize with; "minmax" quantizes with `low` and `high`.
        step_low: Smallest value in each step of the denoising loop; one entry for components that run once an image.
        step_high: Largest value in each step.
        channel_low: Smallest value in each channel, for outputs of norms; empty for others.
        channel_high: Largest value in each channel, for outputs of norms.
        channel_power: Mean square of each channel, for inputs of nodes with weights.
    """

    low: float
    high: float
    cuts: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    step_low: tuple[float, ...] = ()
    step_high: tuple[float, ...] = ()
    channel_low: tuple[float, ...] = ()
    channel_high: tuple[float, ...] = ()
    channel_power: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentRanges:
    """The file `calibration/<component>.json` of a bundle.

    Attributes:
        tensors: Name in the portable graph to its values.
        format_version: Of the file.
    """

    tensors: Mapping[str, TensorRanges]
    format_version: int = RANGES_VERSION

"""What calibration chose: which nodes of which component compute in fewer bits, and what the others would have cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ComponentChoice", "QuantizationChoice"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentChoice:
    """What is quantized in one component. With the portable graph and its ranges it makes the same graph again.

    Under "int8" and the like the nodes are those with weights; under "fp16" they are those that compute in fp16.

    Attributes:
        quantized: Names of the nodes that compute in the precision's own type.
        kept: Names of the nodes that could and do not, and what each would have cost if it alone were quantized: the
            relative RMS error of what the pipeline makes of it (latents after the last step, or the picture).
        fallback: Those of `quantized` whose weights are int8 where the precision says int4.
        observer: Which of the measured ranges activations are cut to: "minmax", "percentile", "mse" or "entropy".
        smooth: Node to migration strength (0 to 1) of SmoothQuant scales; nodes without are not smoothed.
        low_rank: Node to rank of its branch in the float type beside the quantized rest; nodes without have none.
    """

    quantized: tuple[str, ...] = ()
    kept: Mapping[str, float] = field(default_factory=dict)
    fallback: tuple[str, ...] = ()
    observer: str = "minmax"
    smooth: Mapping[str, float] = field(default_factory=dict)
    low_rank: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationChoice:
    """What calibration chose for one precision of a bundle.

    Attributes:
        components: Component name to what is quantized in it; a component that is not named stays in float.
        psnr: Image PSNR against fp32 in dB over the held-out prompts, the mean; None when nothing was painted.
        worst_psnr: That of the worst picture.
        budget: What was asked for, in words, such as "image PSNR of at least 30 dB".
        min_psnr: Image PSNR in dB that was asked for, of the mean over pictures: `verify` holds engines to it. None
            when something else was asked for.
        prompts: How many pictures the ranges and the ranking come from.
        held_out: How many other pictures `psnr` comes from.
    """

    components: Mapping[str, ComponentChoice]
    psnr: float | None = None
    worst_psnr: float | None = None
    budget: str = ""
    min_psnr: float | None = None
    prompts: int = 0
    held_out: int = 0

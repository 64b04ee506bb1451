"""Limits of `verify` per precision: the largest distance from PyTorch fp32, with the reason for each.

Every gate except those of fp32 leaves room over an independent yardstick: PyTorch's own modules of the embedded model
in that precision, 4 prompts x 2 seeds of 20 steps, guidance 7.5. fp16 and bf16 are PyTorch's own. For the quantized
ones every convolution and every linear layer of all networks had its weights rounded, one scale per output channel
(int4: 64 weights per scale). Where activations are quantized, inputs were rounded too, with one scale per tensor from
the extremes over 8 other prompts. The rest is fp32. Nothing was left out: a bundle keeps some layers in float by
calibration, and is finer.

Measurements, worst of all cases. The last line is the smallest error that a wrong model has to fail on:

    yardstick       relative RMS   max / range   component   latents   image PSNR   SSIM     mean shift
    fp16            0.0028         0.0018        67.8 dB     0.012     68.9 dB        0.99999  0.0001
    bf16            0.025          0.017         48.7 dB     0.083     50.6 dB        0.9993   0.0010
    int8-weights    0.035          0.019         46.1 dB     0.053     54.2 dB        0.9998   0.0014
    int8            0.19           0.15          31.1 dB     0.66      33.1 dB        0.974    0.0047
    fp8             0.31           0.18          26.8 dB     0.64      29.2 dB        0.936    0.0097
    int4-weights    0.44           0.23          23.7 dB     0.65      29.8 dB        0.956    0.020
    5 % darker                                                         26.9 dB        0.998    0.045

All of them showed the same object as fp32 in 8 of 8 images.

Sensitivity of the fp32 gates: one single weight, moved by one standard deviation of its tensor, fails its component at
30 of 30 random positions of the embedded model's text encoder and VAE decoder, at 17 of 30 of its VAE encoder and at 16
of 30 of its UNet. The others move their output by less than 1e-5, seven of the UNet's by less than the order of sums
does. Only the SHA-256 sums of the manifest find those.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from diffoundry.runtime.errors import ConfigError

__all__ = [
    "GATES",
    "QUANTIZED",
    "Gates",
    "coarsest",
    "gates_for",
    "latents_limit",
    "may_be_rounding",
    "pair_psnr",
    "promised_gates",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gates:
    """Limits for one precision.

    Attributes:
        relative_max: Component output: largest absolute error over the range of the reference.
        relative_rms: Component output: RMS of the error over RMS of the reference.
        cosine: Component output: least cosine similarity.
        psnr: Component output: least PSNR in dB, with the range of the reference as peak.
        latents: Latents after every step: largest absolute error over the RMS of the reference's latents. A run that
            multiplies PyTorch's own rounding has a wider one: see `latents_limit`.
        image_psnr: Every image: least PSNR in dB.
        ssim: Every image: least SSIM.
        shift: Every image: largest difference of the mean of a colour, of values in 0..1.
        agreement: All images: least percentage that shows the same as diffusers'.
        mean_psnr: All images: least mean PSNR in dB; None when calibration had no such budget.
    """

    relative_max: float
    relative_rms: float
    cosine: float
    psnr: float
    latents: float
    image_psnr: float
    ssim: float
    shift: float
    agreement: float
    mean_psnr: float | None = None


FP32 = Gates(
    # Both sides compute in fp32 and differ only in the order of their sums: at most 1.2e-6 on the embedded model. Eight
    # times that leaves room for deeper networks.
    relative_rms=1e-5,
    # The largest of up to a million errors: at most 6e-7 of the range on the embedded model.
    relative_max=5e-5,
    # A random error of relative size e gives 1 - e^2 / 2, which is 1 - 5e-11 for the RMS gate.
    cosine=1 - 1e-10,
    # The RMS gate by the range instead of the RMS, which is at least as large: 136 dB on the embedded model.
    psnr=100.0,
    # Every step feeds its error to the next, and guidance multiplies the difference of two outputs by 7.5. On
    # the embedded model: 1.5e-5 in 50 steps of 16 prompts with DDIM, 3.5e-5 with PNDM, the worst of six samplers.
    latents=1e-4,
    # An RMS error of a quarter of one of the 256 levels: the images look identical. 120 dB and more on the embedded
    # model, where the latents are the tighter gate.
    image_psnr=60.0,
    # Noise of 60 dB leaves 1 - 1e-6 / 9e-4 in a wholly flat image, where it shows most.
    ssim=0.9985,
    # The RMS gate of the image: a shift alone can be no larger.
    shift=1e-3,
    agreement=100.0,
)

FP16 = Gates(
    # fp16 has 11 significant bits, and every intermediate is rounded to them: three times the yardstick, whose largest
    # error is that of the UNet at the last step, where it predicts the little noise that is left.
    relative_rms=1e-2,
    relative_max=1e-2,
    # 1 - e^2 / 2 of the RMS gate.
    cosine=1 - 5e-5,
    psnr=50.0,
    # 0.013 in 50 steps of PyTorch's own fp16, 0.015 in ours; a wrong sampler option gives 0.2 to 10.
    latents=0.1,
    # An RMS error of 4.5 of the 256 levels: from here on a difference is visible when two images alternate.
    image_psnr=35.0,
    # Noise of 35 dB leaves 0.74 in flat areas and 0.99 in textured ones: this finds visible noise and ignores the rest.
    ssim=0.95,
    # A level and a quarter of 256; rounding errors of both signs cancel in a mean.
    shift=5e-3,
    agreement=100.0,
)

BF16 = Gates(
    # bf16 has 8 significant bits, an eighth of fp16's resolution: three times the yardstick.
    relative_rms=8e-2,
    relative_max=6e-2,
    cosine=1 - 3.2e-3,
    psnr=38.0,
    # Six times the yardstick; OpenVINO's bf16 has 0.19 over 16 prompts x 2 seeds.
    latents=0.5,
    # An RMS error of 10 of the 256 levels: details differ, the image is the same. The yardstick's are far better. The
    # room is for images that a sampler decides early on, as those of large models.
    image_psnr=28.0,
    ssim=0.9,
    shift=1e-2,
    agreement=100.0,
)

INT8_WEIGHTS = Gates(
    # A weight of 8 bits is as coarse as a bf16 one, and the rest may be computed in bf16: the two errors together are
    # 1.2 times the larger. The gates of bf16 with that room.
    relative_rms=0.1,
    relative_max=6e-2,
    cosine=1 - 5e-3,
    psnr=36.0,
    latents=0.5,
    image_psnr=28.0,
    ssim=0.9,
    shift=1e-2,
    agreement=100.0,
)

INT8 = Gates(
    # Twice the yardstick, which has no separate ranges for channels or steps.
    relative_rms=0.4,
    relative_max=0.35,
    cosine=0.92,
    psnr=25.0,
    # Three times the yardstick: some latents end up elsewhere. A wrong sampler option is left to the config checks.
    latents=2.0,
    # Twice the yardstick's error and two decibels more. The budget of calibration replaces this.
    image_psnr=25.0,
    # Six times the yardstick's loss.
    ssim=0.85,
    # Four times the yardstick, half of what an image 5 % darker has.
    shift=2e-2,
    # One image of ten may change to its nearest neighbour among 263.
    agreement=90.0,
)

FP8 = Gates(
    # E4M3 has 4 significant bits for weights and activations: twice the yardstick.
    relative_rms=0.6,
    relative_max=0.4,
    cosine=0.82,
    psnr=21.0,
    latents=2.0,
    # Twice the yardstick's error, and a decibel.
    image_psnr=22.0,
    # Three times the yardstick's loss.
    ssim=0.8,
    shift=3e-2,
    agreement=90.0,
)

INT4_WEIGHTS = Gates(
    # 15 levels per weight: one and a half of the yardstick, which is near the limit of a working model.
    relative_rms=0.65,
    relative_max=0.4,
    cosine=0.78,
    psnr=19.5,
    latents=2.0,
    image_psnr=22.0,
    # Three times the yardstick's loss.
    ssim=0.8,
    shift=3e-2,
    agreement=90.0,
)

GATES: Mapping[str, Gates] = MappingProxyType(
    {
        "fp32": FP32,
        "fp16": FP16,
        "bf16": BF16,
        "int8-weights": INT8_WEIGHTS,
        "int8": INT8,
        "fp8": FP8,
        "int4-weights": INT4_WEIGHTS,
    }
)
"""Ordered from the finest precision to the coarsest."""

QUANTIZED = frozenset(("int8-weights", "int8", "fp8", "int4-weights"))
"""Precisions whose image quality is a choice: the budget of calibration sets their gate."""

_SPREAD = 6.0
"""Decibels: one image may have twice the error promised for the mean."""


_ROUNDING = 4.0
"""Times the distance of PyTorch's latents from its exact ones. Of the runs measured (DDIM in pixels, Würstchen's prior,
Shap-E) the farthest bundle was 2.1 times as far from PyTorch: both sides err, and independently."""

_MOST_ROUNDING = FP16.latents
"""Latents that are farther away are no matter of rounding: a wrong sampler option gives 0.2 to 10."""


def may_be_rounding(distance: float, gates: Gates) -> bool:
    """Return whether latents miss their gate by no more than rounding can explain, if a run multiplies it.

    Args:
        distance: As `Gates.latents`.
        gates: Limits of the precision.
    """
    return gates.latents < distance <= _MOST_ROUNDING


def latents_limit(gates: Gates, rounding: float) -> float:
    """Return the limit of latents whose run multiplies rounding.

    Args:
        gates: Limits of the precision.
        rounding: Distance of PyTorch's latents in fp32 from those of its networks in float64, over the RMS.
    """
    return max(gates.latents, min(_ROUNDING * rounding, _MOST_ROUNDING))


def gates_for(precision: str) -> Gates:
    """Look up the limits of a precision.

    Raises:
        ConfigError: There are none for it.
    """
    if precision not in GATES:
        raise ConfigError(
            f"gates: got the precision {precision!r}, expected one of {', '.join(GATES)}; "
            f"this version cannot judge it, upgrade diffoundry"
        )
    return GATES[precision]


def promised_gates(precision: str, promised: float | None) -> Gates:
    """Look up the limits of a precision, with the image PSNR that was calibration's budget.

    The mean over all images has to keep the budget. For a quantized precision no image may exceed twice the error.

    Args:
        precision: The precision.
        promised: Mean PSNR over images, in dB; None when there was no such budget.

    Raises:
        ConfigError: The precision has no gates.
    """
    gates = gates_for(precision)
    if promised is None:
        return gates
    worst = promised - _SPREAD if precision in QUANTIZED else gates.image_psnr
    return replace(gates, mean_psnr=promised, image_psnr=worst)


def coarsest(precisions: Iterable[str]) -> str:
    """Find the precision whose gates apply to a whole image: the coarsest of its components'.

    Raises:
        ConfigError: One of them has no gates.
    """
    order = list(GATES)
    return max(precisions, key=lambda precision: (gates_for(precision), order.index(precision))[1])


def pair_psnr(*image_gates: float) -> float:
    """Least PSNR of two images, in dB, when each is as near to the true one as its gate allows. With one gate, the
    distance from the true image.

    RMS errors add up at most: of the RMS errors e that the two gates allow, 20 log10(1 / (e_a + e_b)), rounded down to
    a tenth.

    Args:
        image_gates: `Gates.image_psnr` of both, in dB.
    """
    errors = sum(10 ** (-gate / 20) for gate in image_gates)
    return math.floor(-200 * math.log10(errors) + 1e-6) / 10

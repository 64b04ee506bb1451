"""How far a bundle may be from PyTorch fp32 before `verify` fails it, per precision, with the reason for each.

What the fp32 gates see: one single weight, moved by one standard deviation of its tensor, fails its component in 30 of
30 random places of the embedded model's text encoder and VAE decoder, in 17 of 30 of its VAE encoder and in 16 of 30
of its UNet. The others move their output by less than 1e-5, seven of the UNet's by less than the order of sums does:
those only the SHA-256 sums of the manifest see.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from diffoundry.runtime.errors import ConfigError

__all__ = ["GATES", "Gates", "coarsest", "gates_for"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gates:
    """Limits for one precision.

    Attributes:
        relative_max: Of a component's output: largest absolute error over the range of the reference.
        relative_rms: Of a component's output.
        cosine: Of a component's output, at least.
        psnr: Of a component's output with the range of the reference as peak, in dB, at least.
        latents: After every step: largest absolute error over the RMS of the reference's latents.
        image_psnr: Of the final picture, in dB, at least.
    """

    relative_max: float
    relative_rms: float
    cosine: float
    psnr: float
    latents: float
    image_psnr: float


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
    # An RMS error of a quarter of one of the 256 levels: nobody can tell the pictures apart. 120 dB and more on
    # the embedded model, where the latents are the tighter gate.
    image_psnr=60.0,
)

FP16 = Gates(
    # fp16 has 11 significant bits, and every intermediate is rounded to them. PyTorch's own fp16 is up to 3e-3 from
    # its fp32 on the embedded model: its UNet at the last step, where it predicts the little noise that is left.
    relative_rms=1e-2,
    # 2e-3 in PyTorch's own fp16.
    relative_max=1e-2,
    # 1 - e^2 / 2 of the RMS gate.
    cosine=1 - 5e-5,
    # 66 dB in PyTorch's own fp16.
    psnr=50.0,
    # 0.013 in 50 steps of PyTorch's own fp16, 0.015 in ours; a wrong sampler option gives 0.2 to 10.
    latents=0.1,
    # An RMS error of 4.5 of the 256 levels, from where on one sees a difference when two pictures take turns.
    # 68 dB in PyTorch's own fp16.
    image_psnr=35.0,
)

GATES: Mapping[str, Gates] = MappingProxyType({"fp32": FP32, "fp16": FP16})
"""From the finest precision to the coarsest."""


def gates_for(precision: str) -> Gates:
    """The limits of a precision.

    Raises:
        ConfigError: There are none.
    """
    if precision not in GATES:
        raise ConfigError(
            f"gates: got the precision {precision!r}, expected one of {', '.join(GATES)}; "
            f"this version cannot judge it, upgrade diffoundry"
        )
    return GATES[precision]


def coarsest(precisions: Iterable[str]) -> str:
    """The precision that decides for a whole picture: the coarsest of its components'.

    Raises:
        ConfigError: One of them has no gates.
    """
    order = list(GATES)
    return max(precisions, key=lambda precision: (gates_for(precision), order.index(precision))[1])

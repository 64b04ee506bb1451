"""How far a bundle may be from PyTorch fp32 before `verify` fails it, per precision, with the reason for each."""

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
    # Both sides compute in fp32 and differ only in the order of their sums: 8e-7 at most on the embedded model. Ten
    # times that leaves room for networks of more layers; one changed weight in a thousand-fold sum is far beyond it.
    relative_rms=1e-5,
    # The largest of some thousand to a million errors: 6e-7 on the embedded model, up to five times the RMS.
    relative_max=5e-5,
    # An error of relative size e across the reference gives 1 - e^2 / 2: 5e-11 for the RMS gate.
    cosine=1 - 1e-10,
    # The RMS gate again, by the range: outputs span at least twice their RMS, which is 106 dB; 139 dB measured.
    psnr=100.0,
    # Guidance multiplies the difference of two outputs by 7.5 and every step feeds the next: 4e-6 after 20 steps.
    # 1e-4 is still a hundredth of what rounding the latents once to fp16 moves in a picture.
    latents=1e-4,
    # 134 dB measured. 60 dB is an RMS error of a quarter of one of the 256 levels: no pixel can be told apart.
    image_psnr=60.0,
)

FP16 = Gates(
    # fp16 rounds every intermediate to 11 bits, a relative 2^-12 on average: PyTorch's own fp16 is 3e-3 from its fp32
    # on the embedded model's UNet, most where there is least noise. Three times that.
    relative_rms=1e-2,
    # 2e-3 in PyTorch's own fp16.
    relative_max=1e-2,
    # 1 - e^2 / 2 of the RMS gate is 0.99995.
    cosine=0.9999,
    # 66 dB in PyTorch's own fp16.
    psnr=50.0,
    # 0.013 after 50 steps in PyTorch's own fp16; deeper networks drift further, a broken one leaves 1 behind.
    latents=0.1,
    # 68 dB in PyTorch's own fp16 on the embedded model. Below 35 dB, an RMS error of 4.5 of the 256 levels, a
    # difference becomes visible when two pictures are shown in turn.
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

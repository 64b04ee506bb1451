"""Names around ControlNets: their components, and what they give and a denoiser adds, which diffusers calls residuals.

Zhang et al. 2023, section 3.2, https://arxiv.org/abs/2302.05543.
"""

__all__ = ["MID_RESIDUAL", "controlnet_name", "is_controlnet", "is_residual", "residual_name"]

MID_RESIDUAL = "mid_block_additional_residual"
"""What is added to the output of the denoiser's middle block."""

_DOWN = "down_block_additional_residual_"
_COMPONENT = "controlnet"


def controlnet_name(index: int) -> str:
    """The folder of the ControlNet of this number: "controlnet", "controlnet_1" ...

    diffusers: `MultiControlNetModel.save_pretrained`.
    """
    return f"{_COMPONENT}_{index}" if index else _COMPONENT


def is_controlnet(name: str) -> bool:
    """Whether a component is a ControlNet."""
    return name == _COMPONENT or name.startswith(f"{_COMPONENT}_")


def residual_name(index: int) -> str:
    """The name of what is added to the denoiser's skip connection of this number, from 0 in the order of its blocks."""
    return f"{_DOWN}{index}"


def is_residual(name: str) -> bool:
    """Whether an input of a denoiser is a residual: it may be left to zeros, with which the sum is what it was."""
    return name == MID_RESIDUAL or name.startswith(_DOWN)

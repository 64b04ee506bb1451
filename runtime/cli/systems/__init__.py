"""Options of `generate` that only some systems have: one module a heading, all in `GROUPS`."""

from collections.abc import Callable
from typing import Any, TypeVar

from diffoundry.runtime.cli.systems.cascades import CASCADES
from diffoundry.runtime.cli.systems.class_labels import CLASS_LABELS
from diffoundry.runtime.cli.systems.deepfloyd import DEEPFLOYD
from diffoundry.runtime.cli.systems.depth import DEPTH
from diffoundry.runtime.cli.systems.flux_redux import FLUX_REDUX
from diffoundry.runtime.cli.systems.group import OptionGroup
from diffoundry.runtime.cli.systems.kandinsky import KANDINSKY
from diffoundry.runtime.cli.systems.lumina2 import LUMINA2
from diffoundry.runtime.cli.systems.perturbed_attention import PERTURBED_ATTENTION
from diffoundry.runtime.cli.systems.pixart import PIXART
from diffoundry.runtime.cli.systems.pixels import PIXELS
from diffoundry.runtime.cli.systems.sana import SANA
from diffoundry.runtime.cli.systems.stages import STAGES
from diffoundry.runtime.cli.systems.upscaling import UPSCALING
from diffoundry.runtime.cli.systems.vq_diffusion import VQ_DIFFUSION

__all__ = ["SYSTEM_FILES", "SYSTEM_SETTINGS", "system_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

GROUPS: tuple[OptionGroup, ...] = (
    CLASS_LABELS, PIXELS, UPSCALING, DEPTH, STAGES, KANDINSKY, DEEPFLOYD, CASCADES,
    VQ_DIFFUSION, PIXART, SANA, LUMINA2, FLUX_REDUX, PERTURBED_ATTENTION,
)  # fmt: skip
"""Every heading, in the order of the help."""

SYSTEM_SETTINGS = tuple(name for group in GROUPS for name in group.settings)
"""Their names as arguments of a pipeline, without the images."""

SYSTEM_FILES = {name: option for group in GROUPS for name, option in group.files.items()}
"""Argument of a pipeline that takes an image file to its option."""


def system_options(command: Command) -> Command:
    """Add the options of every group."""
    for group in reversed(GROUPS):
        for option in reversed(group.options):
            command = option(command)
    return command

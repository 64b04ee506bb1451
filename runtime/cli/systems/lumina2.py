"""Lumina-Image 2.0: the instruction before a prompt, and the end of guidance."""

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["LUMINA2"]

_lumina2 = options_in("Lumina-Image 2.0")

LUMINA2 = OptionGroup(
    options=(
        _lumina2("--system-prompt", help="Instruction before PROMPT.  [default: that of the training]"),
        _lumina2("--cfg-trunc-ratio", type=float, help="Fraction of the steps with guidance, 0 to 1.  [default: 1]"),
    ),
    settings=("system_prompt", "cfg_trunc_ratio"),
)

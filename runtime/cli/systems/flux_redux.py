"""The weights of FLUX.1 Redux."""

from diffoundry.runtime.cli.control_options import one_or_list
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["FLUX_REDUX"]

_redux = options_in("FLUX.1 Redux")

FLUX_REDUX = OptionGroup(
    options=(
        _redux(
            "--prompt-embeds-scale", "prompt_embeds_scale", type=float, multiple=True, callback=one_or_list,
            help="Weight of the tokens of an image and its prompt. Repeat it for each image.  [default: 1]",
        ),
        _redux(
            "--pooled-embeds-scale", "pooled_prompt_embeds_scale", also=("--pooled-prompt-embeds-scale",), type=float,
            multiple=True, callback=one_or_list,
            help="Weight of the pooled vector. Repeat it for each image.  [default: 1]",
        ),
    ),
    settings=("prompt_embeds_scale", "pooled_prompt_embeds_scale"),
    files={},
)  # fmt: skip

"""Interface of a UNet whose attention is edited from outside: its further inputs and output, and their neutral values.

Every row r of a batch has a base row b. In cross attention its probabilities P_r (heads, pixels, tokens) become
P_b M_r + P_r c_r. In self attention of few pixels its queries and keys may be replaced by those of row b.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from diffoundry.runtime.models.protocols import Feeds, FloatArray

if TYPE_CHECKING:
    from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel

__all__ = [
    "ATTENTION_MAPS",
    "BASE_ROWS",
    "CONTROL_INPUTS",
    "CROSS_KEEP",
    "CROSS_MAP",
    "SELF_LIMIT",
    "is_attention_control",
    "neutral_feeds",
    "run_edited",
]

CROSS_MAP = "cross_map"
"""float32 (batch, tokens, tokens): M. Entry (w, n) is the share of the base row's token w in token n."""

CROSS_KEEP = "cross_keep"
"""float32 (batch, tokens): c, the share of the row's own probabilities."""

BASE_ROWS = "base_rows"
"""int32 (batch,): index of each row's base row."""

SELF_LIMIT = "self_limit"
"""int32 (1,): self attention of at most so many pixels takes queries and keys of the base row; 0 for none."""

CONTROL_INPUTS = (CROSS_MAP, CROSS_KEEP, BASE_ROWS, SELF_LIMIT)

ATTENTION_MAPS = "attention_maps"
"""float32 (batch, tokens, h, w): the edited cross attention of one resolution, averaged over layers and heads."""


def is_attention_control(names: Collection[str]) -> bool:
    """Return whether a graph with inputs of these names takes edits of its attention."""
    return all(name in names for name in CONTROL_INPUTS)


def neutral_feeds(rows: int, tokens: int) -> Feeds:
    """Return inputs that change nothing: M = 0, c = 1, no replaced self attention."""
    return {
        CROSS_MAP: np.zeros((rows, tokens, tokens), np.float32),
        CROSS_KEEP: np.ones((rows, tokens), np.float32),
        BASE_ROWS: np.arange(rows, dtype=np.int32),
        SELF_LIMIT: np.zeros(1, np.int32),
    }


def run_edited(
    denoiser: "UNet2DConditionModel", sample: FloatArray, timestep: float, conditioning: Feeds
) -> tuple[FloatArray, FloatArray]:
    """Predict with edited attention, as `UNet2DConditionModel.__call__`; only where it `takes_edits`.

    Args:
        denoiser: The UNet.
        sample: As in its call.
        timestep: As in its call.
        conditioning: As in its call, with the inputs of this module.

    Returns:
        The prediction, and the maps of cross attention, float32 (B, tokens, h', w').
    """
    assert all(name in conditioning for name in CONTROL_INPUTS), "an edit feeds all of them"
    prediction, outputs = denoiser.run(sample, timestep, conditioning)
    tokens = conditioning["encoder_hidden_states"].shape[1]
    return prediction, outputs.take(ATTENTION_MAPS, (len(sample), tokens, None, None))

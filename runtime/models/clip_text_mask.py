"""The mask of CLIP's prompts, which the encoder itself does not take. Priors and decoders of unCLIP do."""

from collections.abc import Sequence

import numpy as np

from diffoundry.runtime.models.clip_text import CLIPTextModel, TokenizedPrompt
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["attention_mask"]


def attention_mask(encoder: CLIPTextModel, prompts: Sequence[TokenizedPrompt]) -> FloatArray:
    """Return the mask of prompts of one chunk, float32 (B, 77): 0 for padding, 1 for other tokens."""
    length, room = encoder.length, encoder.length - 2
    return np.stack([encoder.tokenizer.mask(min(len(prompt.ids), room), length) for prompt in prompts])

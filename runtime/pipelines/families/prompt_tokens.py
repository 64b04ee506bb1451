"""Numbers of tokens of a prompt that engines take."""

from typing import Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.json_text_encoder import JsonTextEncoder
from diffoundry.runtime.models.protocols import Denoiser

__all__ = ["check_prompt_tokens"]


def check_prompt_tokens(inputs: Any, denoiser: Denoiser, encoder: JsonTextEncoder | None, others: int = 0) -> None:
    """Refuse numbers of tokens that engines of one size do not take.

    Args:
        inputs: Of the call, with `prompt_embeds` and `max_sequence_length`.
        denoiser: Takes the tokens.
        encoder: Makes them of texts; None where the bundle lacks it.
        others: Tokens of other text encoders before those of this one.

    Raises:
        InputError: An engine was made for another number.
    """
    given, taken = inputs.prompt_embeds, denoiser.token_limit
    if given is None and encoder is not None:
        encoder.check_tokens(inputs.max_sequence_length)
    tokens = others + inputs.max_sequence_length if given is None else given.shape[1]
    if taken is not None and tokens != taken:
        name, apart = ("max_sequence_length", others) if given is None else ("prompt_embeds", 0)
        raise InputError(
            f"{name}: got {tokens - apart} tokens, expected {taken - apart}: the engine of {denoiser.component!r} was "
            f"made for no other number; leave it out, or use an engine for onnxruntime or openvino"
        )

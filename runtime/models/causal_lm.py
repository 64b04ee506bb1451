"""Decoder-only language models as text encoders: prompts to hidden states of some layers.

One causal pass without a cache. transformers: `Qwen3Model`, `Qwen2_5_VLForConditionalGeneration`,
`Qwen3VLForConditionalGeneration`, `Gemma2Model`, `Mistral3ForConditionalGeneration`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import Config, integer, number, refuse
from diffoundry.runtime.models.json_text_encoder import JsonTextEncoder
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.rotary import THETA
from diffoundry.runtime.tokenizers.chat_prompt import CHAT_FILE, ChatPrompt, read_chat_prompt

__all__ = [
    "CausalLanguageModel",
    "CausalLayout",
    "EncodedPrompts",
    "causal_rotary_angles",
    "hidden_state_names",
    "read_causal_layout",
]

_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "qwen3": {"hidden_size": 4096, "num_hidden_layers": 32, "head_dim": 128},
    "qwen2_5_vl": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "rope_theta": 1e6},
    "qwen3_vl": {"hidden_size": 4096, "num_hidden_layers": 32, "head_dim": 128, "rope_theta": 5e5},
    "mistral3": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32, "rope_theta": 1e9},
    "gemma2": {"hidden_size": 2304, "num_hidden_layers": 26, "head_dim": 256, "sliding_window": 4096},
}
"""model_type to the fields that its interface depends on, with the defaults of transformers' configs."""

_PLAIN_ROTARY = ("default", "mrope")
"""Kinds of rotary positions. The second has three positions for a token of an image, which are equal in text."""

_LARGEST_THETA = 1e12
_HIDDEN = "hidden_states."


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalLayout:
    """The interface of a language model, as its config describes it.

    Attributes:
        width: Of a hidden state.
        layers: Number of layers; hidden state k is the output of layer k, and the last is normalized.
        head: Width of a head, of which a half is the width of the rotary angles.
        theta: Base of the rotary frequencies.
        window: Number of tokens that a layer with a sliding window sees; None without such layers.
    """

    width: int
    layers: int
    head: int
    theta: float
    window: int | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedPrompts:
    """Result of a language model.

    Attributes:
        hidden_states: float32 (B, S, D) for each hidden state that the pipeline reads.
        attention_mask: float32 (B, S), 1 for a token and 0 for padding.
        truncated: The part of each prompt that was cut off.
        image_mask: bool (B, S), True for a token of an image; None for prompts alone.
    """

    hidden_states: tuple[FloatArray, ...]
    attention_mask: FloatArray
    truncated: tuple[str, ...]
    image_mask: npt.NDArray[np.bool_] | None = None


def read_causal_layout(config: Config, subject: str) -> CausalLayout:
    """Read config.json with the defaults of transformers.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: Another kind of model, a kind of rotary positions that is not supported, or a wrong value.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _DEFAULTS:
        raise refuse(subject, "model_type", kind, f"one of {', '.join(map(repr, _DEFAULTS))}")
    nested = config.get("text_config")
    own = {**_DEFAULTS[kind], **(nested if isinstance(nested, dict) else config)}
    rotary = own.get("rope_parameters") or own.get("rope_scaling") or {}
    if not isinstance(rotary, dict):
        raise refuse(subject, "rope_parameters", rotary, "an object")
    rotary_kind = rotary.get("rope_type", rotary.get("type", _PLAIN_ROTARY[0]))
    if rotary_kind not in _PLAIN_ROTARY:
        raise refuse(subject, "rope_type", rotary_kind, f"one of {', '.join(map(repr, _PLAIN_ROTARY))}")
    width = integer(own, "hidden_size", 0, subject=subject)
    head = integer(own, "head_dim", None, subject=subject)
    theta = rotary if "rope_theta" in rotary else own
    return CausalLayout(
        width=width,
        layers=integer(own, "num_hidden_layers", 0, subject=subject),
        head=head or width // integer(own, "num_attention_heads", 0, subject=subject),
        theta=number(theta, "rope_theta", THETA, subject=subject, minimum=1, maximum=_LARGEST_THETA),
        window=_window(own, kind, subject),
    )


def _window(own: Config, kind: str, subject: str) -> int | None:
    """Return the window of layers with one, which Qwen has only where its config switches it on."""
    if kind not in ("gemma2", "mistral3") and not own.get("use_sliding_window", False):
        return None
    return integer(own, "sliding_window", None, subject=subject)


def hidden_state_names(hidden_states: Sequence[int], layout: CausalLayout, subject: str) -> dict[str, int]:
    """Return the name of each output, "hidden_states.35", to the number of layers before it.

    Args:
        hidden_states: As in transformers' `hidden_states`: 0 for the embeddings, -1 for the last, which is normalized.
        layout: Interface of the model.
        subject: Name of its config in messages.

    Raises:
        ConfigError: The model has fewer layers.
    """
    count = layout.layers + 1
    if not all(-count <= index < count for index in hidden_states):
        least = max(max(index, -index - 1) for index in hidden_states)
        raise refuse(subject, "num_hidden_layers", layout.layers, f"at least {least}")
    return {f"{_HIDDEN}{index % count}": index % count for index in hidden_states}


def causal_rotary_angles(batch: int, tokens: int, layout: CausalLayout) -> tuple[FloatArray, FloatArray]:
    """Return cosines and sines, float32 (B, S, head / 2), of tokens that are counted from the left.

    Angles are products of float32 numbers, as in transformers: `Qwen3RotaryEmbedding.forward`.
    """
    exponents = np.arange(0, layout.head, 2, dtype=np.float32) / np.float32(layout.head)
    frequencies = np.float32(1.0) / np.power(np.float64(layout.theta), exponents).astype(np.float32)
    angles = np.arange(tokens, dtype=np.float32)[:, None] * frequencies
    shape = (batch, *angles.shape)
    return np.broadcast_to(np.cos(angles), shape).copy(), np.broadcast_to(np.sin(angles), shape).copy()


class CausalLanguageModel(JsonTextEncoder):
    """A language model that is cut after the last hidden state that a pipeline reads.

    Attributes:
        layout: Its interface.
        padding_side: "left" or "right", as the pipeline pads, whatever the tokenizer's files say.
    """

    def __init__(
        self,
        session: EngineSession,
        name: str = "text_encoder",
        *,
        hidden_states: Sequence[int],
        tokens: int,
        padding_side: str | None = "right",
        folder: str | None = None,
    ) -> None:
        """Read config and tokenizer; the engine is opened when first needed.

        Args:
            session: The engines.
            name: Name of the component.
            hidden_states: Those that the pipeline reads, as transformers numbers them: -2 for the last but one.
            tokens: Most tokens of a prompt by default, those of a chat included.
            padding_side: "left" or "right", as the pipeline pads, whatever the tokenizer's files say; None for that of
                the files.
            folder: As in `JsonTextEncoder`.

        Raises:
            BundleError: The bundle lacks the component, its tokenizer or its config.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, name, folder)
        subject = f"{name}/config.json"
        self.layout = read_causal_layout(session.bundle.config(name), subject)
        self._outputs = tuple(hidden_state_names(hidden_states, self.layout, subject))
        self._tokens, self.padding_side = tokens, padding_side

    @property
    def length(self) -> int:
        """Largest number of tokens by default: the files of language models name none, or far too many."""
        return self._tokens

    def chat_prompt(self) -> ChatPrompt:
        """Return the text around a prompt that was rendered at export.

        Raises:
            BundleError: The bundle has none.
        """
        file = f"{self.folder}/{CHAT_FILE}"
        bundle = self._session.bundle
        return read_chat_prompt(bundle.read_json(file), bundle.file(file))

    def encode(
        self, texts: Sequence[str], tokens: int, *, chat: ChatPrompt | None = None, longest: bool = False
    ) -> EncodedPrompts:
        """Run the encoder.

        Args:
            texts: At least one.
            tokens: Number of tokens that each text is cut to, those of `chat` included.
            chat: Text around each prompt; None for none.
            longest: True pads to the longest text, where the engine takes any number of tokens. Hidden states of
                tokens do not depend on padding to their right. False pads to `tokens`.

        Raises:
            InputError: The engine was made for another number of tokens.
        """
        fixed = self.fixed_tokens
        if not longest or (fixed is not None and fixed < tokens):
            self.check_tokens(tokens)
        whole = [text if chat is None else chat.render(text) for text in texts]
        pad_to = (fixed or 0) if longest else None
        batch = self.tokenizer(whole, max_length=tokens, pad_to=pad_to, padding_side=self.padding_side)
        rows, columns = batch.input_ids.shape
        cos, sin = causal_rotary_angles(rows, columns, self.layout)
        feeds = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "rotary_cos": cos,
            "rotary_sin": sin,
        }
        outputs = Outputs(self._session.run(self.name, feeds), self.name)
        shape = (rows, columns, self.layout.width)
        return EncodedPrompts(
            hidden_states=tuple(outputs.take(name, shape) for name in self._outputs),
            attention_mask=batch.attention_mask,
            truncated=batch.truncated if chat is None else tuple(map(chat.cut_from, batch.truncated)),
        )

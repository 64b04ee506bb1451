"""CLIPTextModel: prompts to hidden states, in one chunk of tokens or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.available_memory import check_memory
from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.prompt_weights import WeightedText, parse_weights
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.tokenizers.clip import TOKENIZER_FILES, ClipTokenizer, check_texts

__all__ = ["CLIPTextModel", "EncodedPrompts", "TokenizedPrompt"]

_MOST_LAYERS = 1000

_FEW_ROWS = 32
"""Chunks whose memory is not looked at."""


class TokenizedPrompt(NamedTuple):
    """Token ids of a prompt without start, end and padding, their weights (1 is neutral), and the text that was cut."""

    ids: list[int]
    weights: list[float]
    cut: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedPrompts:
    """The output of a text encoder.

    Attributes:
        outputs: Name to float32 array, a row for each chunk of each prompt: "last_hidden_state" (B * chunks, 77, D), a
            pooled vector (B * chunks, P), "hidden_states.N", "normalized_hidden_states" (B * chunks, layers, 77, D).
        weights: float32 (B, chunks * 77).
        chunks: Chunks of each prompt.
        truncated: The part of each prompt that was cut off.
    """

    outputs: dict[str, FloatArray]
    weights: FloatArray
    chunks: int
    truncated: tuple[str, ...]

    def join(self, states: FloatArray) -> FloatArray:
        """Return states (B * chunks, 77, D) with each prompt in one row (B, chunks * 77, D)."""
        return states.reshape(len(self.weights), -1, states.shape[-1])

    def pooled(self, name: str) -> FloatArray:
        """Return a pooled vector (B, P) of the first chunk, the only one that a plain encoder sees."""
        return self.outputs[name][:: self.chunks]


class CLIPTextModel:
    """A `TextEncoder`. transformers: `CLIPTextModel` and `CLIPTextModelWithProjection`.

    Attributes:
        name: Name of the component.
        folder: Folder of its tokenizer, named alike ("text_encoder_2", "tokenizer_2").
        tokenizer: Its tokenizer; textual inversion replaces it by one with more words.
        layers: Hidden layers.
    """

    def __init__(self, session: EngineSession, name: str = "text_encoder") -> None:
        """Read tokenizer and config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle lacks the component or the tokenizer.
        """
        bundle = session.bundle
        bundle.engines(name)
        self.name = name
        self.folder = name.replace("text_encoder", "tokenizer")
        files = {file: f"{self.folder}/{file}" for file in TOKENIZER_FILES}
        checked = {file: bundle.file(path) for file, path in files.items() if bundle.has(path)}
        self.tokenizer = ClipTokenizer.from_files(checked, name=str(bundle.root / self.folder))
        config = bundle.config(name) if bundle.has(f"{name}/config.json") else {}
        self.layers = integer(config, "num_hidden_layers", 12, subject=f"{name}/config.json", maximum=_MOST_LAYERS)
        self._session = session

    @property
    def length(self) -> int:
        """Tokens in a chunk, start and end included: 77.

        Raises:
            InputError: The tokenizer's files do not say.
        """
        return self.tokenizer.check_length()

    def tokenize(self, texts: Sequence[str], *, weighting: bool, long: bool) -> tuple[TokenizedPrompt, ...]:
        """Tokenize prompts.

        Args:
            texts: The prompts, at least one.
            weighting: True if brackets are weights, as `parse_weights` reads them.
            long: True if text beyond one chunk goes into further chunks. Otherwise it is cut off.

        Raises:
            InputError: An entry is no text, or a weight is no number.
        """
        check_texts(texts)
        tokenizer = self.tokenizer
        prompts = []
        for text in texts:
            ids: list[int] = []
            weights: list[float] = []
            for part in parse_weights(text) if weighting else [WeightedText(text, 1.0)]:
                own = tokenizer.ids(part.text)
                ids += own
                weights += [part.weight] * len(own)
            kept = slice(0, len(ids)) if long else tokenizer.kept(len(ids), self.length - 2)
            cut = tokenizer.decode(ids[: kept.start] + ids[kept.stop :])
            prompts.append(TokenizedPrompt(ids[kept], weights[kept], cut))
        return tuple(prompts)

    def chunks(self, prompts: Sequence[TokenizedPrompt]) -> int:
        """Return the number of chunks that the longest prompt takes, at least one."""
        return max(1, *(-(-len(prompt.ids) // (self.length - 2)) for prompt in prompts))

    def encode(self, prompts: Sequence[TokenizedPrompt], chunks: int) -> EncodedPrompts:
        """Run the encoder on chunks with a start and an end token each; shorter prompts get empty chunks.

        diffusers: community pipeline `lpw_stable_diffusion`, `get_unweighted_text_embeddings`.

        Args:
            prompts: At least one.
            chunks: Chunks of each prompt.
        """
        length, room = self.length, self.length - 2
        rows, masks = [], []
        weights = np.ones((len(prompts), chunks, length), np.float32)
        for prompt, row in zip(prompts, weights, strict=True):
            for chunk in range(chunks):
                own = slice(chunk * room, (chunk + 1) * room)
                ids = prompt.ids[own]
                rows.append(self.tokenizer.frame(ids, length))
                masks.append(self.tokenizer.mask(len(ids), length))
                first = self.tokenizer.start(len(ids), length) + 1
                with np.errstate(over="ignore"):  # the weighted states are checked to be finite
                    row[chunk, first : first + len(ids)] = prompt.weights[own]
        return EncodedPrompts(
            outputs=self.encode_ids(np.stack(rows), np.stack(masks)),
            weights=weights.reshape(len(prompts), -1),
            chunks=chunks,
            truncated=tuple(prompt.cut for prompt in prompts),
        )

    def encode_ids(self, ids: npt.NDArray[np.int32], masks: FloatArray | None = None) -> Outputs:
        """Run on token ids (rows, 77), special ones included: vectors (rows, P) and states (rows, ..., 77, D).

        Args:
            ids: int32 (rows, 77).
            masks: 1 for a token, 0 for padding, float32 (rows, 77), for an encoder that takes them.
        """
        rows, length = ids.shape
        if rows > _FEW_ROWS:
            needed = self._session.output_bytes(self.name, {"batch": rows, "sequence": length})
            check_memory(needed, f"prompt: got {rows} chunks of {length} tokens, which take", "shorten the prompts")
        feeds: dict[str, npt.NDArray[Any]] = {"input_ids": ids}
        if masks is not None and any(spec.name == "attention_mask" for spec in self._session.inputs(self.name)):
            feeds["attention_mask"] = masks
        outputs = Outputs(self._session.run(self.name, feeds), self.name)
        for name, array in outputs.items():
            outputs.take(name, (rows, None) if array.ndim < 3 else (rows, *[None] * (array.ndim - 3), length, None))
        return outputs

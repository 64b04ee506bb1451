"""A CLIP text encoder of a bundle with its tokenizer: prompts to hidden states, in one chunk of tokens or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.families.weighting import Part, parse_weights
from diffoundry.runtime.tokenizers.clip import TOKENIZER_FILES, ClipTokenizer, check_texts

__all__ = ["ClipEncoder", "Encoded", "TokenizedPrompt", "check_token_count"]

FloatArray = npt.NDArray[np.float32]


class TokenizedPrompt(NamedTuple):
    """A prompt as an encoder reads it.

    Attributes:
        ids: Without start and end tokens and padding.
        weights: Of each id; 1 is as usual.
        cut: The text that did not fit.
    """

    ids: list[int]
    weights: list[float]
    cut: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """What an encoder makes of prompts.

    Attributes:
        outputs: Name to float32 array, a row for each chunk of each prompt: "last_hidden_state" (B * chunks, 77, D), a
            pooled vector (B * chunks, P), "hidden_states.N", "normalized_hidden_states" (B * chunks, layers, 77, D).
        weights: float32 (B, chunks * 77).
        chunks: For each prompt.
        truncated: What of each prompt was cut off.
    """

    outputs: dict[str, FloatArray]
    weights: FloatArray
    chunks: int
    truncated: tuple[str, ...]

    def join(self, states: FloatArray) -> FloatArray:
        """States (B * chunks, 77, D) of each prompt in one row (B, chunks * 77, D)."""
        return states.reshape(len(self.weights), -1, states.shape[-1])

    def pooled(self, name: str) -> FloatArray:
        """A pooled vector (B, P): of the first chunk, which is all that a plain encoder sees."""
        return self.outputs[name][:: self.chunks]


class ClipEncoder:
    """Texts to hidden states.

    Attributes:
        name: Of the component.
        tokenizer: Its own.
    """

    def __init__(self, components: EngineSession, name: str = "text_encoder") -> None:
        """Read the tokenizer; the engine is opened when first needed.

        Args:
            components: The engines.
            name: Of the component; its tokenizer's folder is named alike ("text_encoder_2", "tokenizer_2").

        Raises:
            BundleError: The bundle lacks the component or the tokenizer.
        """
        bundle = components.bundle
        bundle.engines(name)
        self.name = name
        self.folder = name.replace("text_encoder", "tokenizer")
        files = {file: f"{self.folder}/{file}" for file in TOKENIZER_FILES}
        checked = {file: bundle.file(path) for file, path in files.items() if bundle.has(path)}
        self.tokenizer = ClipTokenizer.from_files(checked, name=str(bundle.root / self.folder))
        self._components = components

    @property
    def length(self) -> int:
        """Tokens in a chunk, start and end included: 77.

        Raises:
            InputError: The tokenizer's files do not say.
        """
        return self.tokenizer.check_length()

    def read(self, texts: Sequence[str], *, weighting: bool, long: bool) -> tuple[TokenizedPrompt, ...]:
        """Tokenize prompts.

        Args:
            texts: The prompts, at least one.
            weighting: Whether brackets are weights, as `parse_weights` reads them.
            long: Whether what does not fit into one chunk goes into further ones, and is not cut off.

        Raises:
            InputError: What is no text, or a weight that is none.
        """
        check_texts(texts)
        tokenizer = self.tokenizer
        prompts = []
        for text in texts:
            ids: list[int] = []
            weights: list[float] = []
            for part in parse_weights(text) if weighting else [Part(text, 1.0)]:
                own = tokenizer.ids(part.text)
                ids += own
                weights += [part.weight] * len(own)
            kept = slice(0, len(ids)) if long else tokenizer.kept(len(ids), self.length - 2)
            cut = tokenizer.decode(ids[: kept.start] + ids[kept.stop :])
            prompts.append(TokenizedPrompt(ids[kept], weights[kept], cut))
        return tuple(prompts)

    def chunks(self, prompts: Sequence[TokenizedPrompt]) -> int:
        """How many chunks the longest prompt takes, at least one."""
        return max(1, *(-(-len(prompt.ids) // (self.length - 2)) for prompt in prompts))

    def encode(self, prompts: Sequence[TokenizedPrompt], chunks: int) -> Encoded:
        """Run the encoder on chunks that each have a start and an end token; shorter prompts get empty ones.

        diffusers: community pipeline `lpw_stable_diffusion`, `get_unweighted_text_embeddings`.

        Args:
            prompts: At least one.
            chunks: For each prompt.
        """
        length, room = self.length, self.length - 2
        rows = []
        weights = np.ones((len(prompts), chunks, length), np.float32)
        for prompt, row in zip(prompts, weights, strict=True):
            for chunk in range(chunks):
                own = slice(chunk * room, (chunk + 1) * room)
                ids = prompt.ids[own]
                rows.append(self.tokenizer.frame(ids, length))
                first = self.tokenizer.start(len(ids), length) + 1
                with np.errstate(over="ignore"):  # what comes of it is looked at
                    row[chunk, first : first + len(ids)] = prompt.weights[own]
        outputs = self._components.run(self.name, {"input_ids": np.stack(rows)})
        return Encoded(
            outputs=outputs,
            weights=weights.reshape(len(prompts), -1),
            chunks=chunks,
            truncated=tuple(prompt.cut for prompt in prompts),
        )


def check_token_count(components: EngineSession, count: int) -> None:
    """Refuse more tokens than the denoiser's engine takes, before any work.

    Raises:
        InputError: The engine was made for another number of them.
        EngineError: No engine of the bundle can run here.
    """
    choice = components.choice("unet")
    specs = {} if choice is None else {spec.name: spec.shape for spec in choice.spec.inputs}
    taken = specs.get("encoder_hidden_states", (None, None))[1]
    if choice is not None and isinstance(taken, int) and taken != count:
        raise InputError(
            f"long_prompts: got {count} tokens, expected {taken}: the unet's engine for {choice.spec.target} was made "
            f"for no other number; shorten the prompts, or use an engine for onnxruntime or openvino"
        )

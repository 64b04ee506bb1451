"""T5EncoderModel: prompts to hidden states, with or without a mask of their padding."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.tokenizers.tokenizer_json import JSON_FILES, JsonTokenizer

__all__ = ["T5EncoderModel"]


class T5EncoderModel:
    """A `TextEncoder`. transformers: `T5EncoderModel`.

    Padding is hidden from the prompt where the graph has the input "attention_mask".

    Attributes:
        name: Name of the component.
        folder: Folder of its tokenizer, named alike ("text_encoder_3", "tokenizer_3").
        tokenizer: Its tokenizer.
    """

    def __init__(self, session: EngineSession, name: str, folder: str | None = None) -> None:
        """Read the tokenizer; the engine is opened when first needed.

        Args:
            session: The engines.
            name: Name of the component.
            folder: Folder of its tokenizer, where it is not named alike.

        Raises:
            BundleError: The bundle lacks the component or the tokenizer.
        """
        bundle = session.bundle
        bundle.engines(name)
        self.name = name
        self.folder = folder or name.replace("text_encoder", "tokenizer")
        files = {file: f"{self.folder}/{file}" for file in JSON_FILES}
        checked = {file: bundle.file(path) for file, path in files.items() if bundle.has(path)}
        self.tokenizer = JsonTokenizer(checked, str(bundle.root / self.folder))
        self._session = session

    @property
    def length(self) -> int:
        """Largest number of tokens: 512.

        Raises:
            InputError: The tokenizer's files do not say.
        """
        return self.tokenizer.check_length()

    def check_tokens(self, tokens: int) -> None:
        """Refuse a number of tokens that the engine does not take.

        Raises:
            InputError: It was made for another number.
        """
        taken = {spec.name: spec.shape for spec in self._session.declared_inputs(self.name)}
        expected = taken.get("input_ids", (None, None))[1]
        if isinstance(expected, int) and expected != tokens:
            raise InputError(
                f"max_sequence_length: got {tokens}, expected {expected}: the engine of {self.name!r} was made for no "
                f"other number of tokens; leave it out, or use an engine for onnxruntime or openvino"
            )

    def encode(self, texts: Sequence[str], tokens: int) -> tuple[FloatArray, tuple[str, ...]]:
        """Run the encoder.

        Args:
            texts: At least one.
            tokens: Number of tokens of each prompt after padding and truncation.

        Returns:
            Hidden states, float32 (B, tokens, D), and the part of each prompt that was cut off.
        """
        batch = self.tokenizer(texts, max_length=tokens)
        feeds: dict[str, NDArray[Any]] = {"input_ids": batch.input_ids}
        if any(spec.name == "attention_mask" for spec in self._session.inputs(self.name)):
            feeds["attention_mask"] = batch.attention_mask
        outputs = Outputs(self._session.run(self.name, feeds), self.name)
        return outputs.take("last_hidden_state", (len(texts), tokens, None)), batch.truncated

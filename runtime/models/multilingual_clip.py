"""MultilingualCLIP: the text encoder of Kandinsky 2.1, an XLM-R whose states are averaged and projected."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.tokenizers.tokenizer_json import JSON_FILES, JsonTokenizer

__all__ = ["MultilingualCLIP", "MultilingualPrompts"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MultilingualPrompts:
    """Encoded prompts.

    Attributes:
        text_embeds: float32 (B, P), one vector a prompt.
        last_hidden_state: float32 (B, tokens, D).
        attention_mask: float32 (B, tokens): 0 for padding, 1 for other tokens.
        truncated: The part of each prompt that was cut off.
    """

    text_embeds: FloatArray
    last_hidden_state: FloatArray
    attention_mask: FloatArray
    truncated: tuple[str, ...]


class MultilingualCLIP:
    """A `TextEncoder`. diffusers: `MultilingualCLIP`.

    Attributes:
        name: Name of the component.
        folder: Folder of its tokenizer.
        tokenizer: Its tokenizer.
    """

    def __init__(self, session: EngineSession, name: str = "text_encoder") -> None:
        """Read the tokenizer; the engine is opened when first needed.

        Raises:
            BundleError: The bundle lacks the component or the tokenizer.
        """
        bundle = session.bundle
        bundle.engines(name)
        self.name = name
        self.folder = name.replace("text_encoder", "tokenizer")
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

    def encode(self, texts: Sequence[str], tokens: int = 77) -> MultilingualPrompts:
        """Run the encoder.

        Args:
            texts: At least one.
            tokens: Number of tokens of each prompt after padding and truncation.

        Raises:
            InputError: An entry is no text.
        """
        batch = self.tokenizer(texts, max_length=tokens)
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        outputs = Outputs(self._session.run(self.name, feeds), self.name)
        return MultilingualPrompts(
            text_embeds=outputs.take("text_embeds", (len(texts), None)),
            last_hidden_state=outputs.take("last_hidden_state", (len(texts), tokens, None)),
            attention_mask=batch.attention_mask,
            truncated=batch.truncated,
        )

"""MultilingualCLIP: the text encoder of Kandinsky 2.1, an XLM-R whose states are averaged and projected."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.models.json_text_encoder import JsonTextEncoder
from diffoundry.runtime.models.protocols import FloatArray

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


class MultilingualCLIP(JsonTextEncoder):
    """diffusers: `MultilingualCLIP`."""

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

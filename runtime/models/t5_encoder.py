"""T5EncoderModel: prompts to hidden states, with or without a mask of their padding."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.models.json_text_encoder import JsonTextEncoder
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["T5EncoderModel"]


class T5EncoderModel(JsonTextEncoder):
    """transformers: `T5EncoderModel`.

    Padding is hidden from the prompt where the graph has the input "attention_mask".
    """

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

"""A CLIP text encoder of a bundle with its tokenizer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.components import Components
from diffoundry.runtime.tokenizers.clip import TOKENIZER_FILES, ClipTokenizer

__all__ = ["ClipEncoder", "Encoded"]

FloatArray = npt.NDArray[np.float32]


class Encoded(NamedTuple):
    """What an encoder makes of texts.

    Attributes:
        outputs: Name to float32 array: "last_hidden_state" (B, 77, D), a pooled vector (B, P), "hidden_states.N".
        truncated: What of each text was cut off.
    """

    outputs: dict[str, FloatArray]
    truncated: tuple[str, ...]


class ClipEncoder:
    """Texts to hidden states.

    Attributes:
        name: Of the component.
        tokenizer: Its own.
    """

    def __init__(self, components: Components, name: str = "text_encoder") -> None:
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

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Encode texts."""
        tokens = self.tokenizer(texts)
        return Encoded(self._components.run(self.name, {"input_ids": tokens.input_ids}), tokens.truncated)

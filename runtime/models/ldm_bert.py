"""LDMBertModel: prompts to hidden states, padding included."""

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.roles import tokenizer_folder
from diffoundry.runtime.models.t5_encoder import T5EncoderModel

__all__ = ["LDMBertModel"]

_TOKENS = 77
"""Default of diffusers for `max_position_embeddings`."""


class LDMBertModel(T5EncoderModel):
    """A `TextEncoder` with the WordPiece tokenizer of BERT; no mask of the padding, as T5.

    Rombach et al. 2021, https://arxiv.org/abs/2112.10752. diffusers: `LDMBertModel`.
    """

    def __init__(self, session: EngineSession, name: str = "bert") -> None:
        """Read the tokenizer and the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle lacks the component or the tokenizer.
            ConfigError: The config has a value of another kind.
        """
        super().__init__(session, name, tokenizer_folder(name))
        config, subject = session.bundle.config(name), f"{name}/config.json"
        self._positions = integer(config, "max_position_embeddings", _TOKENS, subject=subject)

    @property
    def length(self) -> int:
        """Number of tokens of a prompt: 77, whatever the tokenizer's files say."""
        return self._positions

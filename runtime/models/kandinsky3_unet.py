"""Kandinsky3UNet: the denoiser of Kandinsky 3."""

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer, integers
from diffoundry.runtime.models.denoiser import DenoiserNetwork
from diffoundry.runtime.models.protocols import Feeds

__all__ = ["LEVELS", "SIDE", "TOKENS", "Kandinsky3UNet"]

LEVELS = (384, 768, 1536, 3072)
"""Default of diffusers for `block_out_channels`."""

SIDE = 128
"""Latents to a side of an image unless a call says otherwise; diffusers' pipelines have 1024 pixels."""

TOKENS = 128
"""Tokens of a prompt with its padding, before it is cut."""

_CUT = -1.0
"""Mask of a row that diffusers would have cut off."""


class Kandinsky3UNet(DenoiserNetwork):
    """diffusers: `Kandinsky3UNet`.

    Its conditioning, made by `fill`: "encoder_hidden_states" (B, tokens, D), cut after the last token of the longest
    prompt, and "encoder_attention_mask" (B, tokens), 1 for a token and 0 for one that no one attends to.

    Attributes:
        width: D.
        divisor: Latents of which the sides of an image are multiples.
    """

    sample_size: tuple[int, int] | None = (SIDE, SIDE)

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self.in_channels = self.out_channels = integer(self._config, "in_channels", 4, subject=self._subject)
        self.width = integer(self._config, "encoder_hid_dim", 4096, subject=self._subject)
        levels = integers(self._config, "block_out_channels", LEVELS, subject=self._subject)
        self.first_channels = levels[0]
        self.divisor: int = 2 ** (len(levels) - 1)

    @property
    def _compiles_sizes(self) -> bool:
        """True if the engine is compiled for each size that it meets."""
        choice = self._session.choice(self.component)
        return choice is not None and bool(choice.spec.options.get("buckets"))

    def fill(self, conditioning: Feeds) -> Feeds:
        """Pad the tokens to the number that the engine takes, once for all steps; padding changes nothing.

        Engines with buckets are compiled once for each size, so they get one number of tokens, too.

        Raises:
            InputError: There are more.
        """
        limit, tokens = self.token_limit, conditioning["encoder_hidden_states"].shape[1]
        if limit is None and self._compiles_sizes:
            limit = max(TOKENS, tokens)
        if limit is None or tokens == limit:
            return conditioning
        if tokens > limit:
            raise InputError(
                f"prompt_embeds: got {tokens} tokens, expected at most {limit}: the engine of {self.component!r} was "
                f"made for no more"
            )
        fillers = {"encoder_hidden_states": 0.0, "encoder_attention_mask": _CUT}
        return {
            name: np.pad(
                rows, [(0, 0), (0, limit - tokens), *[(0, 0)] * (rows.ndim - 2)], constant_values=fillers[name]
            )
            for name, rows in conditioning.items()
        }

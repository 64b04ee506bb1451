"""ReduxImageEncoder: the connector of FLUX.1 Redux."""

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["PATCH_STATES", "REDUX_EMBEDS", "ReduxImageEncoder"]

PATCH_STATES, REDUX_EMBEDS = "image_states", "image_embeds"
"""Input and output of the graph."""

_COMPONENT = "image_embedder"


class ReduxImageEncoder:
    """Turns the states of an image's patches into tokens of a prompt. diffusers: `ReduxImageEncoder`.

    Attributes:
        component: Name of the component.
        tokens: Tokens of an image.
        width: Width of a token, that of T5.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no such component, or no config of an image encoder.
            ConfigError: A field is damaged.
        """
        self.component = _COMPONENT
        config, subject = session.bundle.config(_COMPONENT), f"{_COMPONENT}/config.json"
        self.width = integer(config, "txt_in_features", 4096, subject=subject)
        encoder, subject = session.bundle.config("image_encoder"), "image_encoder/config.json"
        side = integer(encoder, "image_size", 224, subject=subject)
        self.tokens = (side // integer(encoder, "patch_size", 16, subject=subject)) ** 2
        self._session = session

    def __call__(self, states: FloatArray) -> FloatArray:
        """Return tokens (B, tokens, width) of states of patches (B, tokens, D)."""
        outputs = Outputs(self._session.run(self.component, {PATCH_STATES: states}), self.component)
        return outputs.take(REDUX_EMBEDS, (len(states), self.tokens, self.width))

"""FLUX.2: a language model, a transformer over tokens of 2 x 2 latents, a VAE of 32 channels.

Black Forest Labs 2025, https://github.com/black-forest-labs/flux2. diffusers: `Flux2KleinPipeline`, `Flux2Pipeline`.
"""

from collections.abc import Sequence

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.autoencoder_kl import FLUX2_CLASS
from diffoundry.exporter.components.causal_lm_text import MISTRAL_3, QWEN_3, causal_text_encoder
from diffoundry.exporter.components.flux2_transformer import flux2_transformer
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.runtime.pipelines.families.flux_2 import DEV_LAYERS, KLEIN_LAYERS, SYSTEM_MESSAGE, TOKENS

__all__ = ["DEV", "KLEIN", "KLEIN_KV", "declare_dev", "declare_klein"]


def declare_klein(hidden_states: Sequence[int], *, apart: bool = False) -> FamilyDeclaration:
    """Declare FLUX.2 klein.

    Args:
        hidden_states: Those of the text encoder that the transformer takes.
        apart: As `flux2_transformer`.
    """
    return FamilyDeclaration(
        name="flux_2_klein_kv" if apart else "flux_2_klein",
        components=(
            causal_text_encoder(
                model_classes=QWEN_3, hidden_states=hidden_states, tokens=TOKENS, chat={"enable_thinking": False}
            ),
            flux2_transformer(TOKENS, len(hidden_states), guided=False, apart=apart),
            vae_encoder(classes=(FLUX2_CLASS,)),
            vae_decoder(classes=(FLUX2_CLASS,)),
        ),
        folders=("scheduler", "tokenizer"),
    )


def declare_dev(hidden_states: Sequence[int]) -> FamilyDeclaration:
    """Declare FLUX.2 dev; its argument is that of `declare_klein`."""
    return FamilyDeclaration(
        name="flux_2_dev",
        components=(
            causal_text_encoder(
                model_classes=MISTRAL_3,
                hidden_states=hidden_states,
                tokens=TOKENS,
                chat={"system": SYSTEM_MESSAGE, "add_generation_prompt": False},
            ),
            flux2_transformer(TOKENS, len(hidden_states), guided=True),
            vae_encoder(classes=(FLUX2_CLASS,)),
            vae_decoder(classes=(FLUX2_CLASS,)),
        ),
        folders=("scheduler", "tokenizer"),
    )


DEV = declare_dev(DEV_LAYERS)
KLEIN = declare_klein(KLEIN_LAYERS)
KLEIN_KV = declare_klein(KLEIN_LAYERS, apart=True)

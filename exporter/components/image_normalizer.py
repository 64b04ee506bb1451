"""StableUnCLIPImageNormalizer: image embeddings to mean 0 and deviation 1, and back, in one graph."""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import CONNECTOR

__all__ = ["IMAGE_NORMALIZER"]

_CLASS = "StableUnCLIPImageNormalizer"
_SOURCE = "image_normalizer"


def _describe(configs: Configs) -> Component:
    shape = ("batch", read_integer(configs, _SOURCE, "embedding_dim", 768))
    return Component(
        name=_SOURCE,
        role=CONNECTOR,
        network=_CLASS,
        source=_SOURCE,
        inputs=(TensorSpec(name="embeds", dtype="float32", shape=shape),),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name in ("scaled", "unscaled")),
        example={"batch": 2},
        wrapper="diffoundry.exporter.components.image_normalizer_module:ImageNormalizerModule",
    )


IMAGE_NORMALIZER = ComponentKind(
    name=_SOURCE, source=_SOURCE, classes=(f"stable_diffusion:{_CLASS}",), describe=_describe
)

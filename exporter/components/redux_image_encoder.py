"""ReduxImageEncoder: the states of an image's patches to tokens beside those of T5. diffusers: `ReduxImageEncoder`."""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.siglip_vision import siglip_tokens
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.redux_image_encoder import PATCH_STATES, REDUX_EMBEDS
from diffoundry.runtime.models.roles import CONNECTOR

__all__ = ["REDUX_IMAGE_ENCODER"]

_CLASS = "ReduxImageEncoder"
_SOURCE = "image_embedder"


def _describe(configs: Configs) -> Component:
    taken = read_integer(configs, _SOURCE, "redux_dim", 1152)
    made = read_integer(configs, "image_encoder", "hidden_size", 768)
    if taken != made:
        raise refuse(f"{_SOURCE}/config.json", "redux_dim", taken, f"{made}, the hidden_size of the image encoder")
    tokens, width = siglip_tokens(configs), read_integer(configs, _SOURCE, "txt_in_features", 4096)
    return Component(
        name=_SOURCE,
        role=CONNECTOR,
        network=_CLASS,
        source=_SOURCE,
        inputs=(TensorSpec(name=PATCH_STATES, dtype="float32", shape=("batch", tokens, taken)),),
        outputs=(TensorSpec(name=REDUX_EMBEDS, dtype="float32", shape=("batch", tokens, width)),),
        example={"batch": 2},
        call=Call(keywords={PATCH_STATES: "x"}),
    )


REDUX_IMAGE_ENCODER = ComponentKind(name=_SOURCE, source=_SOURCE, classes=(f"flux:{_CLASS}",), describe=_describe)

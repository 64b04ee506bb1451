"""Files of the published sizes, without their data: every tensor has its weight, every weight its tensor."""

import importlib
import json

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, infer_diffusers_model_type
from single_files import LAYOUTS, single_file_tensors, write_sparse

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.single_file.match import match_part

ALIASES = {"sd1": "sd15", "sd2": "sd21", "xl": "sdxl", "refiner": "sdxl-refiner"}

FIRST = "model.diffusion_model.input_blocks.0.0.weight"

CARRIED = {"sd1": ("position_ids",), "sd2": ("logit_scale", "text_projection"), "xl": ("position_ids", "logit_scale")}
"""Ends of the names of tensors that are no weights."""


@pytest.fixture(scope="session")
def full_size():
    """Factory: all tensors of a kind of single file at full size, on the meta device."""
    made = {}

    def make(kind):
        if kind not in made:
            checkpoint = open_checkpoint(ALIASES[kind], random_weights=True)
            states, configs = {}, {}
            for source in LAYOUTS[kind]:
                library, name = checkpoint.model_index[source]
                found = getattr(importlib.import_module(library), name)
                config = json.loads((checkpoint.root / source / "config.json").read_text())
                with torch.device("meta"):
                    module = (
                        found.from_config(config) if library == "diffusers" else found(found.config_class(**config))
                    )
                states[source], configs[source] = module.state_dict(), config
            made[kind] = single_file_tensors(kind, states, configs), states, configs
        return made[kind]

    return make


@pytest.mark.parametrize(
    ("kind", "channels", "name", "pipeline"),
    [
        ("sd1", 4, "v1", "StableDiffusionPipeline"),
        ("sd1", 9, "inpainting", "StableDiffusionInpaintPipeline"),
        ("sd1", 8, "instruct-pix2pix", "StableDiffusionInstructPix2PixPipeline"),
        ("sd2", 4, "v2", "StableDiffusionPipeline"),
        ("sd2", 9, "inpainting_v2", "StableDiffusionInpaintPipeline"),
        ("xl", 4, "xl_base", "StableDiffusionXLPipeline"),
        ("xl", 9, "xl_inpaint", "StableDiffusionXLInpaintPipeline"),
        ("refiner", 4, "xl_refiner", "StableDiffusionXLImg2ImgPipeline"),
    ],
)
def test_every_tensor_has_its_weight(full_size, tmp_path, kind, channels, name, pipeline):
    tensors, states, configs = full_size(kind)
    first = torch.empty(tensors[FIRST].shape[0], channels, 3, 3, device="meta")
    tensors = {**tensors, FIRST: first}
    assert infer_diffusers_model_type(tensors) == name
    path = write_sparse({key: tuple(x.shape) for key, x in tensors.items()}, tmp_path / f"{kind}.safetensors")
    checkpoint = open_checkpoint(str(path), prediction_type="epsilon" if kind == "sd2" else None)
    assert checkpoint.model_index["_class_name"] == pipeline
    assert checkpoint.component("unet").inputs[0].shape[1] == channels
    used = set()
    file = checkpoint.file
    for part in file.architecture.parts:
        wanted = {key: tuple(x.shape) for key, x in states[part.source].items()}
        if part.source == "unet":
            wanted["conv_in.weight"] = tuple(first.shape)
            converted = convert_ldm_unet_checkpoint(dict(tensors), configs["unet"])
            assert {key: tuple(x.shape) for key, x in converted.items()} == wanted
        match = match_part(path, file.architecture, part, file.file.entries, wanted, configs[part.source])
        assert match.places.keys() == wanted.keys()
        used |= {match.prefix + place.name for place in match.places.values()}
    left = {name for name in tensors.keys() - used if ".resblocks.23." not in name or kind != "sd2"}
    assert all(name.endswith(CARRIED.get(kind, ("logit_scale",))) for name in left)
    assert not [notice for notice in checkpoint.notices() if "left out" in notice]

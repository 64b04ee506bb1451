"""ControlNets of FLUX.1 against diffusers' own pipelines on tiny random checkpoints, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from system_pair import compare_system
from tiny_flux import DEEP, SCHNELL, UNION, make_flux, make_flux_controlnet

from diffoundry.exporter.components.flux_controlnet import control_residuals, flux_controlnet
from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError

pytestmark = pytest.mark.slow

FORMS = ("", "Img2Img", "Inpaint")
WIDTH, HEIGHT = 24, 16
NOISE = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
EDGES = Image.effect_noise((WIDTH, HEIGHT), 30).convert("RGB")
MASK = Image.new("L", (WIDTH, HEIGHT))
MASK.paste(255, (4, 5, 19, 12))
TWO = ["a red apple", "a cat face"]
FEW = {"num_inference_steps": 3, "max_sequence_length": 9, "watch": False}
SIZE = {"height": HEIGHT, "width": WIDTH}
BOTH = ("onnxruntime", "openvino")
NETS = {
    "union": UNION,
    "plain": {"guidance_embeds": True},
    "other": {},
    "pixels": {"conditioning_embedding_channels": 16, "num_single_layers": 0},
}


@pytest.fixture(scope="module")
def net(system_checkpoint):
    """Factory: the folder of a ControlNet."""
    names = list(NETS)
    return lambda name: system_checkpoint(
        f"flux-net-{name}", lambda folder: make_flux_controlnet(folder, names.index(name), **NETS[name])
    )


@pytest.fixture(scope="module")
def base(system_checkpoint):
    return system_checkpoint("flux-deep", lambda folder: make_flux(folder, **DEEP))


@pytest.fixture(scope="module")
def join(exported, net):
    """Factory: our pipelines of both targets with ControlNets, and a function that opens a class of diffusers."""

    def make(folder, *nets):
        bundle = exported(folder, target=",".join(BOTH), controlnets=tuple(str(net(name)) for name in nets))
        models = [diffusers.FluxControlNetModel.from_pretrained(net(name)) for name in nets]

        def theirs(form="", networks=models):
            kind = getattr(diffusers, f"FluxControlNet{form}Pipeline")
            pipeline = kind.from_pretrained(folder, controlnet=networks if len(networks) > 1 else networks[0])
            pipeline.set_progress_bar_config(disable=True)
            return pipeline

        return {target: load(bundle, target=target) for target in BOTH}, theirs, models

    return make


@pytest.fixture(scope="module")
def union(join, base):
    return join(base, "union")


def test_text_to_image(union):
    ours, theirs, _ = union
    assert ours["onnxruntime"].session.bundle.pipeline_class == "FluxControlNetPipeline"
    guided = {"negative_prompt": ["blue", ""], "true_cfg_scale": 3.0, "num_images_per_prompt": 2}
    for target in BOTH:
        compare_system(
            ours[target], theirs(), prompt=TWO, control_image=[EDGES, EDGES.rotate(180)], control_mode=1, **FEW, **SIZE,
            **guided, controlnet_conditioning_scale=0.7, control_guidance_end=0.7,
        )  # fmt: skip
        assert_idle_inputs_are_zeros(ours[target], {"control_image": EDGES, "control_mode": 1}, **SIZE)
    large = {"control_image": EDGES.resize((32, 40)), "height": 40, "width": 32, "control_mode": 2}
    compare_system(ours["onnxruntime"], theirs(), prompt="a cat", **FEW, **large, control_guidance_start=0.3)


def test_from_images(union):
    ours, theirs, _ = union
    given = {"image": NOISE, "control_image": EDGES, "control_mode": 0, **SIZE}
    for form, more in (("Img2Img", {"prompt": "a cat"}), ("Inpaint", {"prompt": "a cat", "mask_image": MASK})):
        compare_system(ours["onnxruntime"], theirs(form), **FEW, **given, **more, strength=0.7)
        large = {"image": NOISE.resize((32, 40)), "control_image": EDGES.resize((32, 40)), "height": 40, "width": 32}
        mask = {"mask_image": MASK.resize((32, 40))} if "mask_image" in more else {}
        compare_system(ours["openvino"], theirs(form), **FEW, **{**given, **more, **large, **mask}, strength=1.0)


def test_one_union_for_several_images(union):
    """diffusers does so too, where the parts of the run are lists; otherwise it runs for the first image alone."""
    ours, theirs, models = union
    several = {"control_image": [EDGES, NOISE], "control_mode": [2, 0], "controlnet_conditioning_scale": [0.4, 0.8]}
    several |= {"control_guidance_start": [0.0, 0.0], "control_guidance_end": [1.0, 1.0]}
    pipeline = theirs(networks=[diffusers.models.controlnets.FluxMultiControlNetModel(models)])
    compare_system(ours["onnxruntime"], pipeline, prompt="a cat", **FEW, **SIZE, **several)


ERRORS = (
    ({}, "control_mode: got none, expected a whole number from 0 to 2: 'controlnet' is a union for 3 kinds of control"),
    ({"control_mode": 3}, "control_mode: got 3, expected a whole number from 0 to 2"),
    ({"control_mode": [0, 1]}, "control_image: got 1, expected a list of 2: one for each ControlNet"),
    ({"control_mode": 0, "guess_mode": True}, "guess_mode: the ControlNets of this bundle have none; leave it out"),
    (
        {"control_mode": 0, "control_image": EDGES.resize((32, 16))},
        "control_image: got 32 x 16 pixels, expected 24 x 16, the size that is generated",
    ),
)


def test_wrong_arguments_are_refused(union):
    ours = union[0]["onnxruntime"]
    for arguments, words in ERRORS:
        with pytest.raises(InputError, match=words):
            ours("a cat", **{"control_image": EDGES, **SIZE, **arguments})


def test_defaults_are_diffusers(union):
    ours = union[0]["onnxruntime"]
    for form, task in zip(FORMS, ("text_to_image", "image_to_image", "inpainting"), strict=True):
        parameters = inspect.signature(getattr(diffusers, f"FluxControlNet{form}Pipeline").__call__).parameters
        defaults = ours.family.controlnet_defaults[task]
        assert {name: parameters[name].default for name in defaults} == defaults


CONFIGS = (
    ({"in_channels": 32}, "field 'in_channels': got 32, but 2 x 2 latents have 16; this ControlNet was made for anoth"),
    ({"num_attention_heads": 3}, "field 'num_attention_heads': got 3, but the transformer has 2"),
    ({"joint_attention_dim": 64}, "field 'joint_attention_dim': got 64, but the transformer has 32"),
    ({"num_mode": 0}, "field 'num_mode': got 0, expected a whole number from 1 to"),
    ({"conditioning_embedding_channels": 16, "patch_size": 2}, "field 'patch_size': got 2, but 2 x 2 latents are 4 pi"),
    ({"num_single_layers": -1}, "field 'num_single_layers': got -1, expected a whole number from 0"),
)


def test_configs_that_are_refused(base, net):
    configs = {name: json.loads((base / name / "config.json").read_text()) for name in ("transformer", "vae")}
    own = json.loads((net("union") / "config.json").read_text())
    for changes, words in CONFIGS:
        with pytest.raises(ConfigError, match=f"controlnet/config.json: {words}"):
            flux_controlnet("controlnet", tokens=512).describe({**configs, "controlnet": {**own, **changes}})
    for changes, words in (
        ({"num_single_layers": 4}, "field 'num_single_layers': got 4, but controlnet has 1; only residuals of as many"),
        (
            {"conditioning_embedding_channels": 16},
            "got a ControlNet that sees pixels of its image, but controlnet sees",
        ),
    ):
        with pytest.raises(ConfigError, match=f"controlnet_1/config.json: .*{words}"):
            control_residuals({**configs, "controlnet": own, "controlnet_1": {**own, **changes}})


@pytest.mark.slow
def test_several_networks(join, base):
    ours, theirs, _ = join(base, "plain", "union")
    several = {"control_image": [EDGES, NOISE], "controlnet_conditioning_scale": [0.5, 0.9], "control_mode": [None, 1]}
    for target in BOTH:
        compare_system(ours[target], theirs(), prompt=TWO, **FEW, **SIZE, **several, num_images_per_prompt=2)


@pytest.mark.slow
def test_networks_that_see_pixels(join, system_checkpoint):
    """As those of XLabs do. Their residuals repeat over the blocks of the transformer."""
    levels = {"block_out_channels": (8, 8, 8), "down_block_types": ("DownEncoderBlock2D",) * 3,
              "up_block_types": ("UpDecoderBlock2D",) * 3}  # fmt: skip
    folder = system_checkpoint("flux-deep-4", lambda folder: make_flux(folder, vae=levels, **DEEP))
    ours, theirs, _ = join(folder, "pixels")
    guided = {"negative_prompt": "blue", "true_cfg_scale": 3.0}
    for target in BOTH:
        compare_system(ours[target], theirs(), prompt=TWO, control_image=EDGES, **FEW, **SIZE, **guided)


@pytest.mark.slow
def test_guidance_of_the_network_alone(join, system_checkpoint):
    """A distilled transformer takes no scale, but a ControlNet beside it may, or the other way round."""
    schnell = {**DEEP, **SCHNELL}
    folder = system_checkpoint("flux-deep-schnell", lambda folder: make_flux(folder, scheduler={}, **schnell))
    for place, name in ((folder, "plain"), (system_checkpoint("flux-deep", None), "other")):
        ours, theirs, _ = join(place, name)
        compare_system(ours["onnxruntime"], theirs(), prompt="a cat", control_image=EDGES, **FEW, **SIZE)


def test_every_argument_counts(union):
    settings = {"seed": 0, "num_inference_steps": 2, "max_sequence_length": 9, "output_type": "latent", **SIZE}
    changes = ({}, {"control_mode": 1}, {"controlnet_conditioning_scale": 0.3}, {"control_image": NOISE})
    results = [
        union[0]["onnxruntime"]("a cat", **{**settings, "control_image": EDGES, "control_mode": 0, **change}).images
        for change in changes
    ]
    for index, latents in enumerate(results):
        assert all(np.abs(latents - other).max() > 1e-3 for other in results[:index]), changes[index]

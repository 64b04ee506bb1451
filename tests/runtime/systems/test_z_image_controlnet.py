"""ControlNets of Z-Image against diffusers' own pipelines on tiny random checkpoints, after every step."""

import inspect
import json

import diffusers
import pytest
import torch
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from safetensors.torch import save_file
from system_lora import check_lora, factors, linear_layers
from system_pair import compare_system
from tiny_z_image import make_z_image, make_z_image_controlnet

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.cli.export import read_loras
from diffoundry.exporter.components.z_image_controlnet import control_residuals, z_image_controlnet
from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError

pytestmark = pytest.mark.slow

NAME, INPAINT = "ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline"
SIZE = {"height": 16, "width": 24}
EDGES = Image.effect_noise((24, 16), 30).convert("RGB")
NOISE = Image.effect_noise((24, 16), 90).convert("RGB")
MASK = Image.new("L", (24, 16))
MASK.paste(255, (4, 5, 19, 12))
FEW = {"num_inference_steps": 3, "watch": False}
TWO = {
    "prompt": ["a cat", "a red apple on the table, an astronaut that rides a horse on the moon " * 3],
    "negative_prompt": ["blue " * 40, ""],
}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("z-image-deep", lambda folder: make_z_image(folder, n_layers=3))


@pytest.fixture(scope="module")
def net(system_checkpoint):
    return system_checkpoint(
        "z-image-net", lambda folder: make_z_image_controlnet(folder, refiner="control_layers", layers=(0, 2))
    )


@pytest.fixture(scope="module")
def pipelines(exported, folder, net):
    """Target to the pipeline."""
    bundle = exported(folder, target="onnxruntime,openvino", controlnets=(str(net),))
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


def open_reference(folder, net, name=NAME):
    model = diffusers.ZImageControlNetModel.from_pretrained(net)
    pipeline = getattr(diffusers, name).from_pretrained(folder, controlnet=model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, folder, net, target):
    ours, theirs = pipelines[target], open_reference(folder, net)
    assert ours.session.bundle.pipeline_class == NAME
    compare_system(
        ours, theirs, **TWO, control_image=[EDGES, EDGES.rotate(180)], controlnet_conditioning_scale=0.6,
        cfg_truncation=0.4, **FEW, **SIZE,
    )  # fmt: skip
    if target == "onnxruntime":
        large = {"control_image": EDGES.resize((32, 40)), "height": 40, "width": 32, "num_images_per_prompt": 2}
        compare_system(ours, theirs, prompt="a cat", guidance_scale=0.0, **FEW, **large)
        assert_idle_inputs_are_zeros(ours, {"control_image": EDGES}, **SIZE)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_of_inpainting_is_diffusers(pipelines, folder, net, target):
    ours, theirs = pipelines[target], open_reference(folder, net, INPAINT)
    images = {"control_image": EDGES, "image": NOISE, "mask_image": [MASK, MASK.rotate(180)]}
    compare_system(ours, theirs, **TWO, **images, **FEW, **SIZE)
    if target == "onnxruntime":
        large = {name: image.resize((32, 40)) for name, image in (("control_image", EDGES), ("image", NOISE))}
        large |= {"mask_image": MASK.resize((32, 40)), "height": 40, "width": 32}
        compare_system(ours, theirs, prompt="a cat", guidance_scale=0.0, **FEW, **large)


@pytest.mark.parametrize(
    ("refiner", "masked"), [(None, False), pytest.param("control_noise_refiner", True, marks=pytest.mark.slow)]
)
def test_every_kind_is_diffusers(exported, system_checkpoint, folder, refiner, masked):
    net = system_checkpoint(
        f"z-image-net-{refiner}", lambda one: make_z_image_controlnet(one, refiner=refiner, masked=masked)
    )
    ours, theirs = load(exported(folder, target="onnxruntime", controlnets=(str(net),))), open_reference(folder, net)
    compare_system(ours, theirs, **TWO, control_image=EDGES, **FEW, **SIZE)
    if masked:
        return
    with pytest.raises(InputError, match="control_image: inpainting has no ControlNets; leave it out"):
        ours.start("a cat", control_image=EDGES, image=NOISE, mask_image=MASK, **SIZE)


def test_defaults_and_errors(pipelines):
    ours = pipelines["onnxruntime"]
    for name, task in ((NAME, "text_to_image"), (INPAINT, "controlnet_inpainting")):
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        for argument, value in ours.family.controlnet_defaults[task].items():
            assert parameters[argument].default == value
    kept = {"control_image": EDGES, "image": NOISE, "mask_image": MASK}
    for wrong, words in (
        ({"mask_image": MASK.resize((8, 8))}, "mask_image: got 8 x 8 pixels, expected the image's 24 x 16"),
        ({"image": NOISE.resize((8, 8)), "mask_image": MASK.resize((8, 8))}, "image: got 8 x 8 pixels, expected 24 x"),
        ({"image": [NOISE] * 3}, "image: got 3 for 1 prompts, expected one, or one for each prompt"),
        ({"mask_image": [MASK, MASK], "image": [NOISE] * 3}, "mask_image: got 2 for 3 images, expected one, or one"),
        ({"guess_mode": True}, "guess_mode: the ControlNets of this bundle have none"),
    ):
        with pytest.raises(InputError, match=words):
            ours.start("a cat", **{**kept, **wrong})
    with pytest.raises(InputError, match="control_image: image to image has no ControlNets"):
        ours.start("a cat", control_image=EDGES, image=NOISE, **SIZE)


def write_lora(transformer, file, *beginnings):
    """Write one for all linear layers whose names begin so, in diffusers' names, and return their number."""
    random, tensors = torch.Generator().manual_seed(0), {}
    for name, layer in linear_layers(transformer).items():
        if name.startswith(beginnings):
            for side, tensor in zip("AB", factors(layer.weight.shape, random), strict=True):
                tensors[f"transformer.{name}.lora_{side}.weight"] = tensor
    save_file(tensors, file)
    return len(tensors) // 2


def test_loras(pipelines, folder, net, tmp_path):
    """At run time those for layers that the ControlNet does not have; fused, they change both networks."""
    theirs, file = open_reference(folder, net), tmp_path / "lora.safetensors"
    count = write_lora(theirs.transformer, file, "layers")
    theirs.load_lora_weights(str(file))
    arguments = {"prompt": "a red apple", "control_image": EDGES, "guidance_scale": 0.0, "num_inference_steps": 2}
    bundle = pipelines["onnxruntime"].session.bundle.root
    check_lora(bundle, theirs, file, {**arguments, **SIZE}, layers={"transformer": count})
    theirs.unload_lora_weights()
    write_lora(theirs.transformer, file, "layers", "noise_refiner", "context_refiner")
    with pytest.raises(
        InputError, match="got a change of .*refiner.*, a layer that 'controlnet' has of its transformer"
    ):
        pipelines["onnxruntime"].loras.load(file)
    theirs.load_lora_weights(str(file))
    theirs.fuse_lora()
    joined = open_checkpoint(str(folder)).with_controlnets([str(net)]).with_loras(read_loras([str(file)]))
    fused = {name.replace(".base_layer", ""): one for name, one in theirs.controlnet.state_dict().items()}
    for name, weight in joined.load("controlnet").state_dict().items():
        torch.testing.assert_close(weight, fused[name], msg=name)


CONFIGS = {
    "dim": (64, "but the transformer has 32; this ControlNet was made for another kind"),
    "n_heads": (4, "but the transformer has 2"),
    "n_refiner_layers": (2, "but the transformer has 1"),
    "control_in_dim": (8, "but latents have 4, and 9 with a mask"),
    "control_layers_places": ([0, 3], "but the transformer has 3 blocks"),
    "control_refiner_layers_places": ([1], "but the transformer has 1 blocks"),
    "add_control_noise_refiner": ("x", "expected null, 'control_layers' or 'control_noise_refiner'"),
}


def test_configs_that_are_refused(folder, net):
    configs = {
        name: json.loads((folder / name / "config.json").read_text()) for name in ("transformer", "vae", "text_encoder")
    }
    own = json.loads((net / "config.json").read_text())
    describe = z_image_controlnet("controlnet", tokens=512).describe
    assert len(describe({**configs, "controlnet": own}).outputs) == 2 * 3
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"controlnet/config.json: field '{field}': got .*{words}"):
            describe({**configs, "controlnet": {**own, field: value}})
    for wrong in ([1, 2], [2, 0], [0, 0]):
        with pytest.raises(ConfigError, match="expected rising numbers that begin with 0"):
            describe({**configs, "controlnet": {**own, "control_layers_places": wrong}})
    with pytest.raises(ConfigError, match="--controlnet: got 2 ControlNets of Z-Image, expected one"):
        control_residuals({**configs, "controlnet": own, "controlnet_1": own})

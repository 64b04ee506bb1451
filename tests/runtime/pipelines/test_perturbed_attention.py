"""Perturbed-attention guidance of Stable Diffusion beside diffusers' pipelines: the latents after every step."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.perturbed_unet import self_attentions
from diffoundry.runtime.pipelines.registry import family_of_class

PROMPT = "a red apple"
PAIR = {"negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2}
FEW = {"num_inference_steps": 3, "height": 64, "width": 48}


def noise_image(height=64, width=48, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def mask(height=64, width=48):
    down, across = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.where((down > height // 3) & (across > width // 4), 255, 0).astype(np.uint8))


@pytest.fixture(scope="module")
def bundle(exported, tiny_sd_checkpoint):
    """Factory: the bundle of a tiny checkpoint, exported for the class with perturbed attention."""

    def make(variant="sd1", kind="StableDiffusionPAGPipeline", **more):
        return exported(tiny_sd_checkpoint(variant), pipeline=kind, **more)

    return make


def test_every_step_is_diffusers(bundle, tiny_sd_checkpoint):
    ours = load(bundle())
    theirs = diffusers_pipeline(tiny_sd_checkpoint("sd1"), "StableDiffusionPAGPipeline")
    compare(ours, theirs, [PROMPT, "a cat"], **FEW, **PAIR, pag_adaptive_scale=0.004, guidance_rescale=0.7)
    compare(ours, theirs, PROMPT, **FEW, guidance_scale=1.0)
    compare(ours, theirs, PROMPT, **FEW, pag_scale=0.0)
    theirs.set_pag_applied_layers(["down_blocks.0", "up.*attentions.1"])
    chosen = {"pag_applied_layers": ["down_blocks.0", "up_blocks"]}
    with pytest.raises(AssertionError):
        compare(ours, theirs, PROMPT, **FEW, ours_only=chosen)
    theirs.set_pag_applied_layers(["down_blocks.0", "up_blocks"])
    compare(ours, theirs, PROMPT, **FEW, ours_only=chosen)


CASES = {
    "StableDiffusionPAGImg2ImgPipeline": ("sd1", {"image": noise_image(), "strength": 0.7}),
    "StableDiffusionPAGInpaintPipeline": ("inpaint", {"image": noise_image(), "mask_image": mask(), **FEW}),
    "StableDiffusionXLPAGPipeline": ("xl", {"height": 64, "width": 48, "guidance_rescale": 0.5}),
    "StableDiffusionXLPAGImg2ImgPipeline": ("xl", {"image": noise_image(), "strength": 0.7}),
    "StableDiffusionXLPAGInpaintPipeline": ("xl", {"image": noise_image(), "mask_image": mask(), **FEW}),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", CASES)
def test_every_step_of_other_classes_is_diffusers(bundle, tiny_sd_checkpoint, kind, target):
    variant, arguments = CASES[kind]
    ours = load(bundle(variant, kind, target="onnxruntime,openvino"), target=target)
    theirs = diffusers_pipeline(tiny_sd_checkpoint(variant), kind)
    settings = {**arguments, "num_inference_steps": 4}
    compare(ours, theirs, PROMPT, **settings, negative_prompt="blue", num_images_per_prompt=2)
    compare(ours, theirs, PROMPT, **settings, guidance_scale=1.0, pag_adaptive_scale=0.002)


CONTROLLED = {
    "StableDiffusionControlNetPAGPipeline": ("sd1", "control_image", {}),
    "StableDiffusionControlNetPAGInpaintPipeline": (
        "sd1",
        "control_image",
        {"image": noise_image(), "mask_image": mask()},
    ),
    "StableDiffusionXLControlNetPAGPipeline": ("xl", "control_image", {}),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": ("xl", "control_image", {"image": noise_image(), "strength": 0.7}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTROLLED)
def test_every_step_with_a_controlnet_is_diffusers(exported, tiny_sd_checkpoint, tiny_controlnet, kind):
    variant, name, arguments = CONTROLLED[kind]
    plain, net = kind.replace("ControlNet", ""), tiny_controlnet(variant)
    ours = load(exported(tiny_sd_checkpoint(variant), pipeline=plain, controlnets=(str(net),)))
    assert ours.session.bundle.model_index["_class_name"] == kind
    module = diffusers.ControlNetModel.from_pretrained(net)
    theirs = diffusers_pipeline(tiny_sd_checkpoint(variant), kind, controlnet=module)
    control = noise_image(seed=1)
    own = {name: control, "controlnet_conditioning_scale": 0.7}
    if not arguments:
        theirs, own = _Renamed(theirs), {**own, "height": 64, "width": 48}
    compare(ours, theirs, PROMPT, **arguments, **own, num_inference_steps=4, negative_prompt="blue")


class _Renamed:
    """diffusers' text to image, whose image for ControlNets is `image`."""

    def __init__(self, pipe):
        self._pipe = pipe

    def __getattr__(self, name):
        return getattr(self._pipe, name)

    def __call__(self, *texts, control_image, callback_on_step_end=None, **arguments):
        return self._pipe(*texts, image=control_image, callback_on_step_end=callback_on_step_end, **arguments)


def test_names_are_those_of_diffusers_modules(tiny_sd_checkpoint):
    configs = [
        {"layers_per_block": [1, 2, 1, 2], "transformer_layers_per_block": [1, 2, 3, 1]},
        {"mid_block_type": None, "layers_per_block": 1},
        {
            "transformer_layers_per_block": [[1, 2], 1, [2, 1], 1],
            "reverse_transformer_layers_per_block": [1, [1, 2, 1], 2, [2, 1, 3]],
        },
    ]
    small = {
        "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 2, "cross_attention_dim": 4, "attention_head_dim": 4
    }  # fmt: skip
    for config in configs:
        with torch.device("meta"):
            module = diffusers.UNet2DConditionModel(**small, **config)
        expected = {name for name, _ in module.named_modules() if name.endswith(".attn1")}
        names = self_attentions(config, "unet/config.json")
        assert len(names) == len(expected)
        assert set(names) == expected


def test_defaults_are_diffusers():
    for name in ("stable_diffusion_pag", "stable_diffusion_xl_pag"):
        entry = family_of_class(f"{'StableDiffusionXL' if 'xl' in name else 'StableDiffusion'}PAGPipeline")
        assert entry.name == name
        for kind in entry.classes:
            method = getattr(diffusers, kind)
            signature = {
                **inspect.signature(method.__init__).parameters,
                **inspect.signature(method.__call__).parameters,
            }
            found = [
                signature[argument].default for argument in ("pag_scale", "pag_adaptive_scale", "pag_applied_layers")
            ]
            assert found == [3.0, 0.0, "mid"], kind


UNFIT = {
    "only_cross_attention": (True, "false, for perturbed attention"),
    "dual_cross_attention": (True, "false, for perturbed attention"),
    "mid_block_type": ("UNetMidBlock2D", "'UNetMidBlock2DCrossAttn' or null, for perturbed attention"),
    "down_block_types": (["AttnDownBlock2D"], "names among CrossAttnDownBlock2D, .*, for perturbed attention"),
    "layers_per_block": ([2, 2], "4 numbers, one for each level"),
    "transformer_layers_per_block": ([[1, 2], 1], "4 entries, one for each level"),
}


def test_other_attention_is_refused():
    for field, (value, expected) in UNFIT.items():
        with pytest.raises(ConfigError, match=rf"unet/config\.json: field '{field}': got .*, expected {expected}"):
            self_attentions({field: value}, "unet/config.json")


def test_wrong_arguments_are_refused(bundle):
    ours = load(bundle())
    for arguments, words in (
        ({"pag_scale": -1.0}, "pag_scale: got -1.0, expected a number of at least 0"),
        (
            {"pag_applied_layers": "blocks.7"},
            r"expected names such as 'down_blocks.0.attentions.0.transformer_blocks.0' to 'up_blocks.",
        ),
    ):
        with pytest.raises(InputError, match=words):
            ours(PROMPT, **FEW, **arguments)


_JOINED = "expected the class without its further networks; pass them with"

CLASSES = {
    "StableDiffusionPAGPipelin": "expected a supported pipeline class .*Did you mean 'StableDiffusionPAGPipeline'",
    "StableDiffusionControlNetPAGPipeline": f"{_JOINED} --controlnet",
    "StableDiffusionAdapterPipeline": f"{_JOINED} --t2i-adapter",
    "StableDiffusionUpscalePipeline": "which does not fit this checkpoint: .*low_res_scheduler",
    "FluxPipeline": "which does not fit this checkpoint: .*component .* in a FluxPipeline; leave it out",
}


def test_classes_that_do_not_fit_are_refused(tiny_sd_checkpoint):
    for name, words in CLASSES.items():
        with pytest.raises(InputError, match=rf"^--pipeline: got '{name}', {words}"):
            open_checkpoint(str(tiny_sd_checkpoint("sd1")), pipeline=name)


def test_generate(bundle, tmp_path):
    ours = load(bundle())
    options = [
        "--steps=2", "--seed=3", "--height=64", "--width=48", "--pag-scale=2", "--pag-layers=down_blocks.0",
        f"-o{tmp_path}/out.png",
    ]  # fmt: skip
    told = CliRunner().invoke(generate, [str(ours.session.bundle.root), PROMPT, *options])
    assert told.exit_code == 0, told.output
    few = {**FEW, "num_inference_steps": 2}
    (image,) = ours(PROMPT, seed=3, pag_scale=2.0, pag_applied_layers=["down_blocks.0"], **few).images
    with Image.open(tmp_path / "out.png") as written:
        np.testing.assert_array_equal(np.asarray(written), np.asarray(image))

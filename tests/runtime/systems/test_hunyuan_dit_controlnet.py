"""ControlNets of Hunyuan-DiT against diffusers' own pipeline on tiny random checkpoints, after every step."""

import inspect
import json

import diffusers
import pytest
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from system_pair import compare_system
from tiny_hunyuan_dit import make_hunyuan_dit, make_hunyuan_dit_controlnet

from diffoundry.exporter.components.hunyuan_dit import hunyuan_dit_controlnet
from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError

pytestmark = pytest.mark.slow

NAME = "HunyuanDiTControlNetPipeline"
LAYERS = 6
EDGES = Image.effect_noise((48, 32), 30).convert("RGB")
FEW = {"num_inference_steps": 3, "use_resolution_binning": False}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("hunyuan-dit-deep", lambda folder: make_hunyuan_dit(folder, layers=LAYERS))


@pytest.fixture(scope="module")
def net(system_checkpoint):
    return system_checkpoint("hunyuan-dit-net", lambda folder: make_hunyuan_dit_controlnet(folder, LAYERS))


@pytest.fixture(scope="module")
def pipelines(exported, folder, net):
    """Target to the pipeline with two residuals."""
    bundle = exported(folder, target="onnxruntime,openvino", controlnets=(str(net),))
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(folder, net):
    model = diffusers.HunyuanDiT2DControlNetModel.from_pretrained(net)
    pipeline = diffusers.HunyuanDiTControlNetPipeline.from_pretrained(
        folder, controlnet=model, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    """diffusers draws the latents of control images from torch's global generator."""
    ours = pipelines[target]
    assert ours.session.bundle.pipeline_class == NAME
    compare_system(
        ours, theirs, prompt=["a cat", "a red apple"], negative_prompt=["blue", ""], height=32, width=48, **FEW,
        control_image=[EDGES, EDGES.rotate(180)], controlnet_conditioning_scale=0.7,
    )  # fmt: skip
    assert_idle_inputs_are_zeros(
        ours, {"control_image": EDGES}, height=32, width=48, use_resolution_binning=False, num_inference_steps=2
    )
    if target == "onnxruntime":
        large = {"control_image": EDGES.resize((16, 80)), "height": 80, "width": 16, "num_images_per_prompt": 2}
        compare_system(ours, theirs, prompt="a cat", **FEW, **large, guidance_scale=1.0)


@pytest.mark.slow
def test_two_controlnets_are_added(exported, folder, net, theirs):
    other = net.with_name("hunyuan-dit-net-2")
    make_hunyuan_dit_controlnet(other, LAYERS)
    bundle = exported(folder, controlnets=(str(net), str(other)))
    second = diffusers.HunyuanDiT2DControlNetModel.from_pretrained(other)
    both = diffusers.HunyuanDiTControlNetPipeline(
        **{**theirs.components, "controlnet": [theirs.controlnet, second]}, requires_safety_checker=False
    )
    images = [EDGES, EDGES.rotate(180)]
    compare_system(
        load(bundle), both, prompt="a cat", control_image=images, controlnet_conditioning_scale=[0.7, 0.3], height=32,
        width=48, **FEW,
    )  # fmt: skip


def test_defaults_and_errors(pipelines):
    ours = pipelines["onnxruntime"]
    parameters = inspect.signature(diffusers.HunyuanDiTControlNetPipeline.__call__).parameters
    for argument, value in ours.family.controlnet_defaults["text_to_image"].items():
        assert parameters[argument].default == value
    with pytest.raises(InputError, match="guess_mode: the ControlNets of this bundle have none"):
        ours.start("a cat", control_image=EDGES, guess_mode=True, height=32, width=48, **FEW)


CONFIGS = {
    "transformer_num_layers": (8, "but the transformer has 6; this ControlNet was made for another kind"),
    "num_attention_heads": (3, "but the transformer has 2"),
    "cross_attention_dim_t5": (48, "but the transformer has 32"),
    "use_style_cond_and_image_meta_size": (False, "but the transformer has True"),
}


def test_configs_that_are_refused(folder, net):
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in ("transformer", "vae")}
    own = json.loads((net / "config.json").read_text())
    describe = hunyuan_dit_controlnet("controlnet").describe
    assert len(describe({**configs, "controlnet": own}).outputs) == LAYERS // 2 - 1
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"controlnet/config.json: field '{field}': got .*{words}"):
            describe({**configs, "controlnet": {**own, field: value}})

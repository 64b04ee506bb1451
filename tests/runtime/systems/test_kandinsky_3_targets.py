"""Kandinsky 3 on other targets: half precision, int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

from functools import partial

import pytest
from coreml_interpreter.engine import InterpretedEngine
from system_pair import compare_system, open_theirs
from system_targets import (
    calibrate_int8,
    check_core_ml,
    check_half_precision,
    check_int8,
    check_tensorrt_rtx,
    check_verify,
    measure_beside_pytorch,
)
from tiny_kandinsky_3 import make_kandinsky_3

from diffoundry.exporter.verify.variants import CustomEngines
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.kandinsky3_unet import TOKENS
from diffoundry.runtime.pipelines import open_pipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (64, 64)
PARTS = {"text_encoder", "unet", "vae_encoder", "vae_decoder"}
SETTINGS = {"seed": 0, "num_inference_steps": 4, "height": 64, "width": 64, "output_type": "np"}


@pytest.fixture(params=["Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline"])
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint):
    return system_checkpoint("kandinsky-3", make_kandinsky_3)


@pytest.fixture
def own_folder(system_checkpoint, name):
    """The checkpoint of each class."""
    known = "kandinsky-3" if name == "Kandinsky3Pipeline" else "kandinsky-3-image"
    return system_checkpoint(known, lambda folder: make_kandinsky_3(folder, name))


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, target, precision):
    check_half_precision(partial(exported, folder), SETTINGS, target, precision)


@pytest.mark.parametrize("target", ["coreml", "openvino"])
def test_engines_of_one_number_of_tokens_have_the_images_of_diffusers(exported, folder, target):
    """Core ML takes no other, by the interpreter here. OpenVINO compiles for every size where it has buckets."""
    bundle = Bundle(exported(folder, target=f"onnxruntime,{target}", buckets=(SIZE,)))
    if target == "coreml":
        session = CustomEngines(
            bundle, target=target, precision="fp32", options=EngineOptions(), opener=InterpretedEngine
        )
    else:
        session = EngineSession(bundle, target=target)
    tokens = set()

    def note(_name, feeds, _outputs, _seconds):
        tokens.update(feeds[name].shape[1] for name in feeds if name == "encoder_attention_mask")

    session.on_call = note
    ours, theirs = open_pipeline(session), open_theirs(folder, "Kandinsky3Pipeline")
    for negative in ({}, {"negative_prompt": "a dog in the garden of the house"}):
        compare_system(ours, theirs, prompt="a cat", height=64, width=64, num_inference_steps=2, **negative)
    assert tokens == {TOKENS}


def test_four_levels_of_three_layers_are_diffusers(exported, system_checkpoint):
    """As the published UNet has them. The finest level has no attention, and sizes are multiples of 64."""
    sizes = {"block_out_channels": (16, 32, 48, 64), "layers_per_block": 3}
    folder = system_checkpoint("kandinsky-3-deep", lambda folder: make_kandinsky_3(folder, **sizes))
    ours, theirs = load(exported(folder)), open_theirs(folder, "Kandinsky3Pipeline")
    assert ours.size_multiple() == 64
    compare_system(ours, theirs, prompt="a cat", height=64, width=128, num_inference_steps=2)


def test_int8_is_calibrated(exported, folder):
    bundle = calibrate_int8(partial(exported, folder), 15, height=64, width=64)
    check_int8(*(load(bundle, precision=one)("a cat", **SETTINGS).images for one in ("fp32", "int8")), 15)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("unet") if spec.target == "coreml")
    assert {spec.shape[1] for spec in engine.inputs if spec.name.startswith("encoder")} == {TOKENS}
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder):
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS


def test_verify_passes_every_check(exported, own_folder, name):
    unused = {"vae_encoder"} if name == "Kandinsky3Pipeline" else set()
    for compared in check_verify(exported(own_folder, target="onnxruntime,openvino", buckets=(SIZE,))):
        assert compared >= PARTS - unused


def test_verify_draws_embeddings_without_a_text_encoder(exported, folder):
    check_verify(exported(folder, buckets=(SIZE,), without=("text_encoder",)))


def test_bench_measures_both_beside_pytorch(exported, own_folder):
    measure_beside_pytorch(exported(own_folder, target="onnxruntime,openvino", buckets=(SIZE,)), SIZE)

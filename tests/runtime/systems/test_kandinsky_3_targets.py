"""Kandinsky 3 on other targets: half precision, int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from coreml_interpreter.engine import InterpretedEngine
from system_pair import compare_system, open_theirs
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx
from tiny_kandinsky_3 import make_kandinsky_3

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.exporter.verify.variants import CustomEngines
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.bench import command as bench
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
    """fp16 of OpenVINO is built, although few processors compute in it."""
    halves = ("fp16", "bf16") if target == "openvino" else ("fp16",)
    bundle = exported(folder, target=target, precision=f"fp32,{','.join(halves)}")
    settings = {**SETTINGS, "output_type": "latent"}
    expected, given = (load(bundle, target=target, precision=one)("a cat", **settings) for one in ("fp32", precision))
    change = np.square(expected.images - given.images).mean() / np.square(expected.images).mean()
    assert 0 < np.sqrt(change) < {"fp16": 0.005, "bf16": 0.05}[precision]


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
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=64, width=64
    )
    bundle = exported(folder, precision="fp32,int8", quantization=request)
    chosen = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert chosen.psnr >= 15
    assert any(component.quantized for component in chosen.components.values())
    check_int8(*(load(bundle, precision=one)("a cat", **SETTINGS).images for one in ("fp32", "int8")), 15)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("unet") if spec.target == "coreml")
    assert {spec.shape[1] for spec in engine.inputs if spec.name.startswith("encoder")} == {TOKENS}
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder):
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS


def test_verify_passes_every_check(exported, own_folder, name):
    bundle = exported(own_folder, target="onnxruntime,openvino", buckets=(SIZE,))
    report = verify(bundle, None, VerifyRequest(steps=3, guidance_scale=3.0))
    assert [check for check in report.all_checks if not check.passed] == []
    unused = {"vae_encoder"} if name == "Kandinsky3Pipeline" else set()
    for variant in report.variants:
        assert {result.component for result in variant.outputs} >= PARTS - unused


def test_verify_draws_embeddings_without_a_text_encoder(exported, folder):
    bundle = exported(folder, buckets=(SIZE,), without=("text_encoder",))
    report = verify(bundle, None, VerifyRequest(steps=3, guidance_scale=3.0))
    assert [check for check in report.all_checks if not check.passed] == []


def test_bench_measures_both_beside_pytorch(exported, own_folder):
    bundle = exported(own_folder, target="onnxruntime,openvino", buckets=(SIZE,))
    few = ["--steps=2", "--repeats=1", "--warmups=0", "--target=onnxruntime", "--height=64", "--width=64", "--json"]
    result = CliRunner().invoke(bench, [str(bundle), *few, "--against=torch-fp32"])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    assert (report["work"]["width"], report["work"]["height"]) == SIZE
    ours, torch = report["candidates"]
    assert torch["failure"] is None
    assert ours["measured"]["distance"]["psnr"] > 60

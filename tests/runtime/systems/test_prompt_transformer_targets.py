"""Transformers that read a text encoder, on other targets: half precision, int8, 4 bits, Core ML, TensorRT, verify."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from PIL import Image
from system_targets import (
    calibrate_int8,
    check_core_ml,
    check_half_precision,
    check_int8,
    check_tensorrt_rtx,
    check_verify,
    measure_beside_pytorch,
)
from tiny_auraflow import make_auraflow
from tiny_chroma import make_chroma
from tiny_hunyuan_dit import make_hunyuan_dit
from tiny_lumina2 import make_lumina2
from tiny_qwen_image import make_qwen_image, make_qwen_image_21, make_qwen_image_edit, make_qwen_image_layered
from tiny_z_image import make_z_image, make_z_image_omni

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SETTINGS = {"seed": 0, "num_inference_steps": 4, "output_type": "np"}
NOISE = Image.effect_noise((90, 60), 90).convert("RGB")
GENERATE = frozenset({"text_encoder", "transformer", "vae_decoder"})
CHANGE = GENERATE | {"vae_encoder"}
TRUE_GUIDANCE = {"negative_prompt": "blue"}
EDITING = {**TRUE_GUIDANCE, "image": NOISE}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A tiny checkpoint.

    Attributes:
        make: Writes it into a folder.
        parts: Its networks.
        side: Of its images.
        settings: Further arguments of a call.
        shapes: Shapes of the transformer's inputs on Core ML, where they are not obvious.
        sized: False if images that are seen have another size than the result, so that no engine of one size runs.
    """

    make: Callable[..., Any]
    parts: AbstractSet[str]
    side: int = 32
    settings: Mapping[str, Any] = field(default_factory=lambda: {"guidance_scale": 2.0})
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sized: bool = True

    @property
    def buckets(self) -> dict[str, Any]:
        """Options of an export for ONNX Runtime and OpenVINO."""
        return {"buckets": ((self.side, self.side),)} if self.sized else {}


QWEN_SHAPES = {"rotary_cos": (8, 8, 8), "rotary_sin": (8, 8, 8), "text_cos": (512, 8)}
KINDS = {
    "chroma": Kind(make=make_chroma, parts=CHANGE),
    "auraflow": Kind(make=make_auraflow, parts=GENERATE),
    "z-image": Kind(make=make_z_image, parts=CHANGE),
    "z-image-controlnet": Kind(
        make=partial(make_z_image, name="ZImageControlNetPipeline"),
        parts=CHANGE | {"controlnet"},
        settings={"guidance_scale": 2.0, "control_image": NOISE.resize((32, 32))},
    ),
    "z-image-omni": Kind(make=make_z_image_omni, parts=CHANGE | {"siglip"}),
    "lumina2": Kind(make=make_lumina2, parts=GENERATE),
    "hunyuan-dit": Kind(
        make=make_hunyuan_dit,
        parts=GENERATE | {"text_encoder_2"},
        settings={"guidance_scale": 2.0, "use_resolution_binning": False},
    ),
    "qwen-image": Kind(make=make_qwen_image, parts=CHANGE, settings=TRUE_GUIDANCE, shapes=QWEN_SHAPES),
    "qwen-image-controlnet": Kind(
        make=partial(make_qwen_image, name="QwenImageControlNetPipeline"),
        parts=CHANGE | {"controlnet"},
        settings={**TRUE_GUIDANCE, "control_image": NOISE.resize((32, 32))},
        shapes=QWEN_SHAPES,
    ),
    "qwen-image-edit": Kind(
        make=make_qwen_image_edit,
        parts=CHANGE | {"image_encoder"},
        side=64,
        settings=EDITING,
        shapes={"rotary_cos": (2, 2, 8), "text_cos": (2048, 8), "reference_cos": (4096, 8)},
        sized=False,
    ),
    "qwen-image-edit-plus": Kind(
        make=partial(make_qwen_image_edit, name="QwenImageEditPlusPipeline"),
        parts=CHANGE | {"image_encoder"},
        side=64,
        settings=EDITING,
        sized=False,
    ),
    "qwen-image-21": Kind(
        make=make_qwen_image_21,
        parts=CHANGE | {"image_encoder"},
        side=64,
        settings=TRUE_GUIDANCE,
        shapes={"rotary_cos": (2, 4, 4, 8), "text_cos": (512, 8)},
    ),
    "qwen-image-layered": Kind(
        make=make_qwen_image_layered,
        parts=CHANGE,
        side=640,
        settings={**TRUE_GUIDANCE, "image": NOISE.resize((64, 64))},
        shapes={"rotary_cos": (100, 20, 8), "reference_cos": (400, 8), "text_cos": (512, 8)},
    ),
}


@pytest.fixture(params=list(KINDS))
def name(request):
    return request.param


@pytest.fixture
def kind(name):
    return KINDS[name]


@pytest.fixture
def folder(system_checkpoint, name, kind):
    return system_checkpoint(name, kind.make)


@pytest.fixture
def settings(kind):
    return {**SETTINGS, "height": kind.side, "width": kind.side, **kind.settings}


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, settings, target, precision):
    check_half_precision(partial(exported, folder), settings, target, precision)


def test_int8_is_calibrated(exported, folder, kind, settings):
    bundle = calibrate_int8(partial(exported, folder), 15, height=kind.side, width=kind.side)
    check_int8(*(load(bundle, precision=one)("a cat", **settings).images for one in ("fp32", "int8")), 15)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_of_few_bits_stay_close(exported, folder, kind, settings, target):
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=kind.side, width=kind.side
    )
    words = ("int8-weights", "int4-weights")
    bundle = exported(folder, target=target, precision=f"fp32,{','.join(words)}", quantization=request)
    images = {
        word: load(bundle, target=target, precision=word)("a cat", **settings).images for word in ("fp32", *words)
    }
    for word in words:
        check_int8(images["fp32"], images[word], 15)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, kind):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=((kind.side, kind.side),))
    (engine,) = (spec for spec in Bundle(bundle).engines("transformer") if spec.target == "coreml")
    shapes = {spec.name: spec.shape for spec in engine.inputs}
    assert {name: shapes[name] for name in kind.shapes} == kind.shapes
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder, kind):
    buckets = ((kind.side, kind.side),)
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=buckets, **options)) == kind.parts


def test_verify_passes_every_check(exported, folder, kind):
    bundle = exported(folder, target="onnxruntime,openvino", **kind.buckets)
    for compared in check_verify(bundle):
        assert compared >= kind.parts - {"vae_encoder"}


def test_bench_measures_both_beside_pytorch(exported, folder, kind):
    bundle = exported(folder, target="onnxruntime,openvino", **kind.buckets)
    measure_beside_pytorch(bundle, (kind.side, kind.side))

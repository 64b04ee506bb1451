"""Stable Diffusion 3 for inpainting and with ControlNets: verification, precisions, and targets of other machines."""

import pytest
from PIL import Image
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify import verify
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.runtime import load

pytestmark = pytest.mark.slow

KINDS = {
    "inpaint": ("sd3-inpaint", ()),
    "mask": ("sd3-without-t5", ("masked",)),
    "several": ("sd3-without-t5", ("first", "second")),
    "single attention": ("sd3-without-t5", ("stability",)),
}


@pytest.fixture
def export(exported, tiny_sd_checkpoint, tiny_controlnet):
    """Factory: the bundle of a kind."""

    def make(kind, **options):
        base, nets = KINDS[kind]
        return exported(
            tiny_sd_checkpoint(base), controlnets=tuple(str(tiny_controlnet(base, net)) for net in nets), **options
        )

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_true_bundle_passes_every_check(export, tiny_sd_checkpoint, tiny_controlnet, kind):
    base, nets = KINDS[kind]
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint(base)))
    checkpoint = checkpoint.with_controlnets([str(tiny_controlnet(base, net)) for net in nets])
    request = VerifyRequest(prompts=("a red apple",), steps=2)
    report = verify(export(kind, target="onnxruntime,openvino"), checkpoint, request)
    assert [check for check in report.all_checks if not check.passed] == []
    assert all(loop.psnr > 80 for build in report.variants for loop in build.loops)


@pytest.mark.parametrize("kind", ["inpaint", "mask", "single attention"])
def test_integers_stay_within_the_budget(export, kind):
    request = QuantizationRequest(budget=Budget(min_psnr=20), prompts=("a red apple",), held_out=("a cup",), steps=4)
    bundle = export(kind, precision="fp32,int8,int8-weights,int4-weights", quantization=request)
    image, mask = Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (16, 24, 64, 48))
    own = {"image": image, "mask_image": mask} if kind == "inpaint" else {"control_image": image}
    own |= {"control_mask": mask} if kind == "mask" else {}
    arguments = {**own, "num_inference_steps": 4, "seed": 0, "output_type": "np"}
    expected = load(bundle, precision="fp32")("a red apple", **arguments).images
    for precision, least in (("int8", 15), ("int8-weights", 30), ("int4-weights", 15)):
        check_int8(expected, load(bundle, precision=precision)("a red apple", **arguments).images, least)


@pytest.mark.parametrize("kind", KINDS)
def test_core_ml_computes_every_component(export, kind):
    check_core_ml(export(kind, target="onnxruntime,coreml", buckets=((64, 80),)))


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrt_rtx_takes_every_component(export, kind):
    names = check_tensorrt_rtx(lambda **options: export(kind, **options))
    assert {"transformer", *(["controlnet"] if kind != "inpaint" else [])} <= names

"""Bundles of every kind of checkpoint pass against diffusers' own pipeline, and say so when something is wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from device_precisions import offers

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify import report_to_json, verify
from diffoundry.exporter.verify.checkpoint_source import find_checkpoint
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.models.controlnet import MID_RESIDUAL, residual_name

_TEXT_2 = {"text_encoder_2", "unet", "vae_encoder", "vae_decoder"}

KINDS = {
    "depth": {"text_encoder", "unet", "vae_encoder", "vae_decoder"},
    "inpaint": {"text_encoder", "unet", "vae_encoder", "vae_decoder"},
    "instruct": {"text_encoder", "unet", "vae_encoder", "vae_decoder"},
    "xl": {"text_encoder", *_TEXT_2},
    "xl-distilled": {"text_encoder", *_TEXT_2},
    "xl-refiner": _TEXT_2,
}


@pytest.mark.slow_cases("xl")
@pytest.mark.slow_cases("instruct")
@pytest.mark.parametrize(
    "kind",
    [
        "instruct",
        "xl",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in sorted(KINDS.keys() - {"instruct", "xl"})),
    ],
)
def test_a_true_bundle_passes_every_check(exported, tiny_sd_checkpoint, quick, kind):
    folder = tiny_sd_checkpoint(kind)
    report = verify(exported(folder), open_checkpoint(str(folder)), quick)
    assert [check for check in report.all_checks if not check.passed] == []
    (variant,) = report.variants
    assert {result.component for result in variant.outputs} == KINDS[kind]
    assert [len(loop.curve) for loop in variant.loops] == [loop.reference_steps for loop in variant.loops]
    assert all(loop.psnr > 80 for loop in variant.loops)
    tokenizers = [check.subject.partition(",")[0] for check in report.checks if "texts" in check.subject]
    assert tokenizers == [name for name in ("tokenizer", "tokenizer_2") if (folder / name).is_dir()]
    json.dumps(report_to_json(report), allow_nan=False)


@pytest.mark.slow
def test_stable_diffusion_3_passes_on_every_engine(portable_bundle, tiny_sd_checkpoint, quick):
    report = verify(portable_bundle("sd3"), open_checkpoint(str(tiny_sd_checkpoint("sd3"))), quick)
    assert [check for check in report.all_checks if not check.passed] == []
    names = {"text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae_encoder", "vae_decoder"}
    assert [build.name for build in report.variants] == ["onnxruntime fp32", "openvino fp32"]
    for build in report.variants:
        assert {result.component for result in build.outputs} == names
        assert all(loop.psnr > 80 for loop in build.loops)
    tokenizers = [check.subject.partition(",")[0] for check in report.checks if "texts" in check.subject]
    assert tokenizers == ["tokenizer", "tokenizer_2", "tokenizer_3"]


@pytest.mark.slow
def test_a_wrong_t5_encoder_is_found(portable_bundle, tiny_sd_checkpoint, editable, quick):
    bundle = editable(portable_bundle("sd3"))
    name = "relative_attention_bias.weight"
    bundle.edit_weight("text_encoder_3", name, lambda weight: np.multiply(weight, 3, out=weight))
    request = replace(quick, target="onnxruntime")
    report = verify(bundle.path, open_checkpoint(str(tiny_sd_checkpoint("sd3"))), request)
    failed = {check.subject for check in report.all_checks if not check.passed and check.part == "component"}
    assert failed == {"text_encoder_3 last_hidden_state"}


@pytest.mark.slow
def test_a_wrong_second_encoder_is_found(exported, tiny_sd_checkpoint, editable, quick):
    folder = tiny_sd_checkpoint("xl")
    bundle = editable(exported(folder))
    bundle.edit_weight("text_encoder_2", "text_projection.weight", lambda weight: np.multiply(weight, 1.1, out=weight))
    report = verify(bundle.path, open_checkpoint(str(folder)), quick)
    failed = {check.subject for check in report.all_checks if not check.passed and check.part == "component"}
    assert failed == {"text_encoder_2 text_embeds"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", None])
def test_a_bundle_with_a_controlnet_passes_on_every_engine(controlled_bundle, quick, precision):
    """The recipe says which ControlNet was joined; in the report it is a component like the others."""
    bundle = controlled_bundle()
    report = verify(bundle, find_checkpoint(Bundle(bundle)), replace(quick, precision=precision))
    assert [check for check in report.all_checks if not check.passed] == []
    names = {"onnxruntime fp32", "openvino fp32"} | ({"onnxruntime fp16"} if precision is None else set())
    assert {variant.name for variant in report.variants} >= names
    for variant in report.variants:
        results = {result.output for result in variant.outputs if result.component == "controlnet"}
        assert results == {*(residual_name(index) for index in range(6)), MID_RESIDUAL}


@pytest.mark.slow
def test_several_controlnets_pass(controlled_bundle, quick):
    bundle = controlled_bundle(nets=("first", "pooled"))
    report = verify(bundle, find_checkpoint(Bundle(bundle)), quick)
    assert [check for check in report.all_checks if not check.passed] == []
    assert {result.component for result in report.variants[0].outputs} >= {"unet", "controlnet", "controlnet_1"}


@pytest.mark.slow
def test_a_wrong_controlnet_is_found(controlled_bundle, editable, quick):
    bundle = editable(controlled_bundle(nets=("first", "pooled")))
    bundle.edit_weight("controlnet_1", "controlnet_mid_block.weight", lambda weight: np.multiply(weight, 3, out=weight))
    report = verify(bundle.path, find_checkpoint(Bundle(bundle.path)), quick)
    failed = {check.subject for check in report.all_checks if not check.passed and check.part == "component"}
    assert failed == {f"controlnet_1 {MID_RESIDUAL}"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapted", "prompted"])
def test_adapters_pass(adapted_bundle, image_prompt_bundle, quick, kind):
    """T2I-Adapters and IP-Adapters are components like the others, and images are generated with them."""
    bundle = adapted_bundle() if kind == "adapted" else image_prompt_bundle()
    report = verify(bundle, find_checkpoint(Bundle(bundle)), quick)
    assert [check for check in report.all_checks if not check.passed] == []
    own = {"adapter", "adapter_1"} if kind == "adapted" else {"ip_adapter", "ip_adapter_1", "image_encoder"}
    for variant in report.variants:
        assert {result.component for result in variant.outputs} == own | KINDS["inpaint"]


@pytest.mark.slow
def test_a_wrong_image_projection_is_found(image_prompt_bundle, editable, quick):
    bundle = editable(image_prompt_bundle())
    bundle.edit_weight("ip_adapter", "image_embeds.weight", lambda weight: np.multiply(weight, 1.1, out=weight))
    report = verify(bundle.path, find_checkpoint(Bundle(bundle.path)), quick)
    failed = {check.subject for check in report.all_checks if not check.passed and check.part == "component"}
    assert failed == {"ip_adapter image_prompt_embeds"}


TARGETS = ("onnxruntime", "openvino")


def assert_runs_what_is_offered(report):
    """Every engine of a wide bundle was compared, or is listed with the reason why it cannot run here."""
    wide = {f"{target} {precision}": (target, precision) for target in TARGETS for precision in ("fp32", "fp16")}
    assert {variant.name for variant in report.variants} == {name for name, pair in wide.items() if offers(*pair)}
    assert {absence.name for absence in report.absent} == {name for name, pair in wide.items() if not offers(*pair)}
    for absence in report.absent:
        precision = wide[absence.name][1]
        assert f"the device 'cpu' does not compute in {precision} itself" in absence.reason


CHECKED = {"text_encoder", "unet", "vae_encoder", "vae_decoder", "safety_checker"}


@pytest.mark.slow
def test_the_safety_checker_is_compared_and_images_are_generated_without_it(wide_bundle, quick):
    request = replace(quick, seeds=(0, 1))  # diffusers flags the second
    report = verify(wide_bundle("sd1-checked"), None, request)
    assert [check for check in report.all_checks if not check.passed] == []
    assert_runs_what_is_offered(report)
    for variant in report.variants:
        assert {result.component for result in variant.outputs} == CHECKED
        assert [check.measure for check in variant.checks if check.part == "safety"] == ["flags of 2 images"]
    configs = {check.subject for check in report.checks if check.part == "config"}
    assert {"safety_checker", "feature_extractor, 3 images"} <= configs


@pytest.mark.slow
def test_a_wrong_threshold_and_a_wrong_feature_extractor_are_found(wide_bundle, tiny_sd_checkpoint, editable, quick):
    folder = tiny_sd_checkpoint("sd1-checked")
    bundle = editable(wide_bundle("sd1-checked"))
    request = replace(quick, target="onnxruntime", precision="fp32", seeds=(0, 1))

    def failed():
        report = verify(bundle.path, open_checkpoint(str(folder)), request)
        return {(check.part, check.subject) for check in report.all_checks if not check.passed}

    bundle.edit_weight("safety_checker", "concept_embeds_weights", lambda weight: np.add(weight, 1, out=weight))
    flags = ("safety", "safety_checker")
    made = ("files", "safety_checker, onnxruntime fp32")
    graph = ("graph", "safety_checker/model.onnxruntime.onnx")
    assert failed() == {("component", "safety_checker concept_scores"), graph, made, flags}
    bundle.edit_weight("safety_checker", "concept_embeds_weights", lambda weight: np.subtract(weight, 1, out=weight))
    bundle.edit_json("feature_extractor/preprocessor_config.json", resample=1)
    assert ("config", "feature_extractor, 3 images") in failed()
    bundle.edit_json("feature_extractor/preprocessor_config.json", crop_size=20)
    assert {("config", "feature_extractor, 3 images"), flags} <= failed()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", pytest.param(None, marks=pytest.mark.slow)])
def test_image_variation_is_compared_on_a_drawn_image(wide_bundle, tiny_sd_checkpoint, quick, precision):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint("variation")))
    report = verify(wide_bundle("variation"), checkpoint, replace(quick, seeds=(0, 1), precision=precision))
    assert [check for check in report.all_checks if not check.passed] == []
    if precision is None:
        assert_runs_what_is_offered(report)
    else:
        assert {variant.name for variant in report.variants} == {f"{target} {precision}" for target in TARGETS}
    for variant in report.variants:
        assert {result.component for result in variant.outputs} == CHECKED - {"text_encoder"} | {"image_encoder"}
        assert [loop.prompt for loop in variant.loops] == ["a drawn image"] * 2
        assert [len(loop.curve) for loop in variant.loops] == [loop.reference_steps for loop in variant.loops] == [3, 3]
    configs = {check.subject for check in report.checks if check.part == "config"}
    assert {"image_encoder", "feature_extractor, 3 images"} <= configs


@pytest.mark.slow
def test_a_wrong_image_encoder_is_found(wide_bundle, tiny_sd_checkpoint, editable, quick):
    bundle = editable(wide_bundle("variation"))
    bundle.edit_weight("image_encoder", "visual_projection.weight", lambda weight: np.multiply(weight, 1.1, out=weight))
    request = replace(quick, target="onnxruntime", precision="fp32")
    report = verify(bundle.path, open_checkpoint(str(tiny_sd_checkpoint("variation"))), request)
    failed = {check.subject for check in report.all_checks if not check.passed and check.part == "component"}
    assert failed == {"image_encoder image_embeds"}

"""A bundle with several variants: each is judged alone, and those that cannot run are listed with the reason."""

import json
import shutil
from pathlib import Path

import pytest

from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.exporter.verify.variants import find_variants
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.targets.onnxruntime.run.engine import OnnxRuntimeEngine
from tests.exporter.verify.conftest import EditableBundle

_REQUEST = VerifyRequest(prompts=("a", "b"), steps=2, options=EngineOptions(threads=1))


@pytest.fixture
def two(exported, tiny_sd_checkpoint, tmp_path) -> EditableBundle:
    """A bundle of random weights with engines in fp32 and fp16."""
    shared = exported(tiny_sd_checkpoint("sd1-small"), precision="fp32,fp16")
    return EditableBundle(Path(shutil.copytree(shared, tmp_path / "two.bundle")))


def _edit_engines(bundle, of_precision, **changes):
    """Change the manifest's entries of one precision."""
    file = bundle.path / "diffoundry.json"
    manifest = json.loads(file.read_text())
    for component in manifest["components"].values():
        for engine in component["engines"]:
            if engine["precision"] == of_precision:
                engine.update(changes)
    file.write_text(json.dumps(manifest))


def test_every_precision_is_judged_by_its_own_gates(two):
    report = verify(two.path, request=_REQUEST)
    assert [(variant.name, variant.precision) for variant in report.variants] == [
        ("onnxruntime fp32", "fp32"), ("onnxruntime fp16", "fp16"),
    ]  # fmt: skip
    assert [check for check in report.all_checks if not check.passed] == []
    fine, coarse = (variant.loops[0] for variant in report.variants)
    assert fine.curve[-1].relative_rms < 1e-5 < coarse.curve[-1].relative_rms, "fp16 was really run"
    assert {check.limit for variant in report.variants for check in variant.checks if check.measure == "PSNR, dB"} == {
        100, 60, 50, 35,
    }  # fmt: skip


def test_only_requested_engines_are_verified(two):
    variants, absent = find_variants(Bundle(two.path), VerifyRequest(precision="fp16"))
    assert ([variant.name for variant in variants], absent) == (["onnxruntime fp16"], [])


@pytest.mark.slow
def test_one_broken_precision_fails_alone(two):
    engine = json.loads((two.path / "diffoundry.json").read_text())["components"]["unet"]["engines"][1]["files"][0]
    graph = (two.path / engine).read_bytes()
    name = b"LayerNormalization"
    (two.path / engine).write_bytes(graph.replace(name, name[:-1] + b"X"))
    two.seal()
    report = verify(two.path, request=_REQUEST)
    good, bad = report.variants
    assert (good.passed, bad.passed, report.passed) == (True, False, False)
    (fault,) = (check for check in bad.checks if check.part == "engine")
    assert (fault.subject, fault.passed) == ("onnxruntime fp16", False)
    assert "unet" in fault.measured
    assert bad.loops == ()
    assert bad.outputs, "the text encoder was compared before the UNet failed"


@pytest.mark.slow
def test_engines_that_cannot_run_here_are_listed_with_the_reason(two):
    _edit_engines(two, "fp16", target="elsewhere")
    report = verify(two.path, request=_REQUEST)
    assert report.passed
    assert [variant.name for variant in report.variants] == ["onnxruntime fp32"]
    (absence,) = report.absent
    assert absence.name == "elsewhere fp16"
    assert "no target of this name is installed" in absence.reason


def test_a_precision_that_the_device_only_emulates_is_listed_and_not_run(two):
    _edit_engines(two, "fp16", precision="bf16")
    variants, (absence,) = find_variants(Bundle(two.path), VerifyRequest())
    assert [variant.name for variant in variants] == ["onnxruntime fp32"]
    assert "'cpu' does not compute in bf16 itself" in absence.reason


def test_when_nothing_can_run_the_reasons_are_the_error(two):
    for precision in ("fp32", "fp16"):
        _edit_engines(two, precision, pending="needs a GPU")
    with pytest.raises(EngineError, match=r"two\.bundle: .*needs a GPU"):
        find_variants(Bundle(two.path), VerifyRequest())


def test_engines_that_the_bundle_lacks_are_refused(two):
    with pytest.raises(EngineError, match="got no engine for int8, the bundle holds onnxruntime fp32, onnxruntime fp1"):
        find_variants(Bundle(two.path), VerifyRequest(precision="int8"))


@pytest.mark.slow
def test_a_custom_opener_runs_a_target_without_plugin(two):
    _edit_engines(two, "fp16", target="elsewhere")
    opened = []

    def opener(path, spec, options):
        opened.append((path.parent.name, spec.precision, options.device, options.threads))
        return OnnxRuntimeEngine(path, spec, options)

    request = VerifyRequest(prompts=("a",), steps=1, options=EngineOptions(threads=1), openers={"elsewhere": opener})
    report = verify(two.path, request=request)
    assert [variant.name for variant in report.variants] == ["onnxruntime fp32", "elsewhere fp16"]
    assert (report.absent, report.passed) == ((), True)
    assert sorted(opened) == [
        (name, "fp16", "cpu", 1) for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    ]


def test_a_custom_opener_gets_only_built_engines(two):
    _edit_engines(two, "fp16", target="elsewhere", pending="needs a Mac")
    variants, (absence,) = find_variants(Bundle(two.path), VerifyRequest(openers={"elsewhere": OnnxRuntimeEngine}))
    assert [variant.name for variant in variants] == ["onnxruntime fp32"]
    assert absence.reason.startswith("component 'text_encoder': got no built engine for elsewhere fp16")


def test_an_opener_for_a_target_that_is_not_there_is_refused(two):
    with pytest.raises(InputError, match="engine: got one for the target 'coreml', the bundle holds onnxruntime fp32"):
        find_variants(Bundle(two.path), VerifyRequest(openers={"coreml": OnnxRuntimeEngine}))


@pytest.mark.slow
@pytest.mark.parametrize(("promise", "passed"), [(30.0, True), (200.0, False)])
def test_the_budget_of_calibration_is_a_check(two, promise, passed):
    _promise(two, promise)
    request = VerifyRequest(
        prompts=("a", "b"), seeds=(0, 1, 2, 3), steps=1, precision="fp16", options=EngineOptions(threads=1)
    )
    report = verify(two.path, request=request)
    (check,) = (check for check in report.variants[0].checks if check.measure == "mean PSNR, dB")
    assert (check.limit, check.passed, report.passed) == (promise, passed, passed)
    assert report.notes == ()


@pytest.mark.slow
def test_a_promise_is_not_judged_over_two_images(two):
    _promise(two, 200.0)
    request = VerifyRequest(prompts=("a", "b"), steps=1, precision="fp16", options=EngineOptions(threads=1))
    report = verify(two.path, request=request)
    assert report.passed
    (note,) = report.notes
    assert note.startswith("onnxruntime fp16: calibration promised a mean of 200 dB, which is judged over 8 or more")
    assert "--full" in note


def _promise(bundle, decibels):
    file = bundle.path / "diffoundry.json"
    manifest = json.loads(file.read_text())
    manifest["recipe"]["quantization"] = {"fp16": {"components": {}, "min_psnr": decibels}}
    file.write_text(json.dumps(manifest))

"""Precisions that quantize weights alone, without calibration: no image is generated, and every layer is quantized."""

import re
import shutil
from pathlib import Path

import pytest

from diffoundry.calibration.prompts import HELD_OUT_PROMPTS
from diffoundry.calibration.quality import Budget
from diffoundry.exporter.add_engines import add_engines
from diffoundry.exporter.calibrate import float_reference, memory
from diffoundry.exporter.calibrate.calibrate import calibrate
from diffoundry.exporter.calibrate.memory import check_calibration_memory
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.calibrate.simulator import Simulator
from diffoundry.exporter.cli.progress import tell_engine_notes
from diffoundry.exporter.jobs import processes
from diffoundry.exporter.jobs.job import CalibrationJob
from diffoundry.exporter.recipe import check_calibration, quantization_for
from diffoundry.exporter.verify import verify
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.cli.group import group
from diffoundry.runtime.engines import available_memory
from diffoundry.runtime.errors import InputError
from diffoundry.targets.base import PrecisionFormat

WITHOUT = QuantizationRequest(calibrate=False)
ANY = QuantizationRequest(budget=Budget(min_psnr=0.01), prompts=("red apple",), held_out=("pizza",), steps=2, threads=1)
ORT, OPENVINO = (Variant(target=target, precision="int8-weights") for target in ("onnxruntime", "openvino"))
INT8_WEIGHTS, INT4_WEIGHTS = PrecisionFormat(weights="int8"), PrecisionFormat(weights="int4")
ENGINES = {
    "int8-weights": INT8_WEIGHTS,
    "int8": PrecisionFormat(weights="int8", activations="uint8"),
    "fp16": PrecisionFormat(floats="fp16"),
}


def quiet(*_words):
    pass


@pytest.fixture
def copied(exported, tiny_sd_checkpoint, tmp_path):
    """Factory: copies of the bundle of a model."""

    def copy(model, name):
        source = exported(model if model == "emoji" else tiny_sd_checkpoint(model))
        return Path(shutil.copytree(source, tmp_path / f"{name}.bundle"))

    return copy


def unopened(*_arguments):
    raise AssertionError("an engine was opened")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["emoji", "sd3-without-t5"])
def test_weights_are_those_of_a_calibration_that_kept_no_layer_in_float(copied, work_here, monkeypatch, model):
    with_images, without = copied(model, "with"), copied(model, "without")
    add_engines(with_images, [ORT, OPENVINO], quiet, quantization=ANY, run=work_here)
    monkeypatch.setattr(Simulator, "open", unopened)
    labels = []
    add_engines(without, [ORT, OPENVINO], lambda label, _: labels.append(label), quantization=WITHOUT, run=work_here)
    assert "quantization, int8-weights" in labels
    measured, unmeasured = (
        Bundle(path).manifest.recipe.quantization["int8-weights"] for path in (with_images, without)
    )
    assert measured.psnr > 0
    assert not any(part.kept for part in measured.components.values())
    assert unmeasured.components.keys() == measured.components.keys()
    for name, part in unmeasured.components.items():
        assert set(part.quantized) == set(measured.components[name].quantized)
    assert (unmeasured.psnr, unmeasured.min_psnr, unmeasured.budget) == (None, None, "none: no image was generated")
    first, second = (Bundle(path).manifest for path in (with_images, without))
    engines = [engine for part in first.components.values() for engine in part.engines[-2:]]
    files = {name for engine in engines for name in engine.files}
    models = {name for name in files if name.endswith(".xml")}
    weights = files - models
    assert weights
    assert {name: first.files[name].sha256 for name in weights} == {name: second.files[name].sha256 for name in weights}
    for name in models:  # OpenVINO numbers its own nodes through a process
        texts = [re.sub(r"_[0-9]+", "", (path / name).read_text()) for path in (with_images, without)]
        assert texts[0] == texts[1]


@pytest.mark.slow
def test_the_bundle_says_that_no_image_was_measured(copied, work_here, capsys):
    bundle = copied("sd1-small", "own")
    manifest = add_engines(bundle, [ORT], quiet, quantization=WITHOUT, run=work_here).manifest
    tell_engine_notes(manifest)
    shown = " ".join(capsys.readouterr().err.split())
    assert (
        "note: int8-weights: every layer that can be quantized is, and no image was measured; compare with 'diffoundry "
        "verify'" in shown
    )
    group.main(["inspect", str(bundle)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"int8-weights: (\d+) of \1 nodes of text_encoder quantized, .*no image was measured", shown)
    report = verify(bundle, None, VerifyRequest(prompts=("a",), steps=2, precision="int8-weights"))
    assert [check for check in report.all_checks if not check.passed] == []


def test_a_choice_that_other_engines_use_is_not_replaced(copied, work_here):
    bundle = copied("sd1-small", "own")
    add_engines(bundle, [ORT], quiet, quantization=ANY, run=work_here)
    with pytest.raises(InputError) as caught:
        add_engines(bundle, [OPENVINO], quiet, quantization=WITHOUT, run=work_here)
    assert str(caught.value) == (
        f"bundle {bundle}: its onnxruntime int8-weights engines were made with the choice that --no-calibration would "
        f"replace; name both targets with --overwrite, or leave --no-calibration out"
    )


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"budget": Budget(min_psnr=30)}, "--min-psnr"),
        ({"budget": Budget(max_size=9, min_psnr=30)}, "--min-psnr and --max-size"),
        ({"prompts": ("a", "b"), "held_out": HELD_OUT_PROMPTS}, "--calibration-prompts"),
    ],
)
def test_what_needs_images_is_refused_without_them(asked, names):
    with pytest.raises(InputError) as caught:
        QuantizationRequest(calibrate=False, **asked)
    assert str(caught.value) == (
        f"--no-calibration: got {names} as well, expected one or the other: budgets and prompts need images; leave "
        f"--no-calibration out, or {names}"
    )


@pytest.mark.parametrize("command", [("export", "emoji", "-o", "new.bundle"), ("build", "none.bundle")])
def test_the_options_are_refused_together(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.bundle").mkdir()
    words = [
        *command,
        "--target",
        "onnxruntime",
        "--precision",
        "int8-weights",
        "--no-calibration",
        "--max-size",
        "9MB",
    ]
    with pytest.raises(InputError, match=r"--no-calibration: got --max-size as well"):
        group.main(words, standalone_mode=False)


@pytest.mark.parametrize("precisions", [("int8",), ("int8-weights", "int8"), ("fp8",), ("fp32", "fp16")])
def test_precisions_that_need_calibration_or_none_are_refused(precisions):
    target = "tensorrt" if "fp8" in precisions else "onnxruntime"
    variants = [Variant(target=target, precision=precision) for precision in precisions]
    with pytest.raises(InputError) as caught:
        check_calibration(variants, WITHOUT)
    assert str(caught.value) == (
        "--no-calibration: got --precision fp32,fp16, which quantizes nothing, expected int8-weights or int4-weights; "
        "leave --no-calibration out"
        if "fp16" in precisions
        else f"--no-calibration: got --precision {precisions[-1]}, which quantizes activations by ranges measured on "
        f"images, expected precisions that quantize weights alone; choose int8-weights or int4-weights, or leave "
        f"--no-calibration out"
    )
    check_calibration(variants, QuantizationRequest())


def test_export_refuses_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["export", "emoji", "--target", "openvino", "--precision", "int8", "--no-calibration", "-o", "new.bundle"]
    with pytest.raises(InputError, match="--no-calibration: got --precision int8, which quantizes activations"):
        group.main(words, standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_random_weights_are_not_calibrated_either(emoji_bundle):
    recipe = Bundle(emoji_bundle).manifest.recipe
    assert quantization_for(recipe, WITHOUT) is WITHOUT


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("int8-weights", "or pass --no-calibration, which quantizes every layer and generates no image"),
        ("int8", "or --precision int8-weights with --no-calibration, which generates no image"),
        ("fp16", "or leave --min-psnr and --max-size out: then no layer is kept in fp32"),
    ],
)
def test_calibration_is_refused_where_its_weights_do_not_fit(reference, monkeypatch, precision, advice):
    formats = {precision: [ENGINES[precision]]}
    weights = {
        name: 4 * sum(value.const_value.size for value in reference.graph(name).graph.initializers.values())
        for name in reference.components
    }

    def check(available):
        monkeypatch.setattr(available_memory, "available_memory", lambda: available)
        check_calibration_memory(reference, formats)

    def refusal(needed):
        with pytest.raises(InputError) as caught:
            check(needed - 1)
        describe = available_memory.describe_bytes
        assert str(caught.value) == (
            f"--precision {precision}: calibration generates images with all networks in fp32, which takes at least "
            f"{describe(needed)} of memory; this machine has {describe(needed - 1)} available; use a larger "
            f"machine, {advice}"
        )
        check(needed)

    check(None)
    refusal(sum(weights.values()))
    *small, large = sorted(weights.values())
    monkeypatch.setattr(float_reference, "WHOLE_BYTES", large - 1)
    monkeypatch.setattr(memory, "PART_BYTES", large // 4)
    refusal(sum(small) + large // 4)  # the largest network holds one part at a time


def test_calibration_asks_for_memory_and_the_option_does_not(tiny_folder, monkeypatch):
    monkeypatch.setattr(available_memory, "available_memory", lambda: 1)
    with pytest.raises(InputError, match="or pass --no-calibration"):
        calibrate(tiny_folder, QuantizationRequest(), {"int4-weights": [INT4_WEIGHTS]})
    choices = calibrate(tiny_folder, WITHOUT, {"int8-weights": [INT8_WEIGHTS], "int4-weights": [INT4_WEIGHTS]})
    assert choices["int8-weights"] == choices["int4-weights"]
    assert choices["int8-weights"].psnr is None


def test_a_killed_calibration_names_the_option(tmp_path):
    (tmp_path / "log").write_text("")
    job = CalibrationJob(request=QuantizationRequest(), variants=(ORT,), folder=str(tmp_path))
    assert processes._died(job, -9, tmp_path / "log") == (
        "calibration, int8-weights: its process was killed, most likely because memory ran out; finished jobs are "
        "kept, run the same command again to continue; or export int8-weights or int4-weights with --no-calibration, "
        "which generates no image"
    )

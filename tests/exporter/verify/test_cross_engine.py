"""The engines of a bundle against each other: the matrix is that of the images, and who generates wrong is found."""

import json
import math
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify import (
    CROSS_ENGINE_SCHEMA_VERSION,
    CrossEngineReport,
    VerifyProgress,
    VerifyRequest,
    compare_engines,
    report_to_json,
)
from diffoundry.exporter.verify.report.cross_engine_page import (
    MATRICES,
    cross_engine_sections,
    cross_engine_verdict,
    matrix,
)
from diffoundry.runtime import load
from diffoundry.runtime.bundle.json_codec import from_json
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.report import Images, ReportImage, Table
from tests.exporter.verify.conftest import EditableBundle

_REQUEST = VerifyRequest(prompts=("a", "b"), steps=2, options=EngineOptions(threads=1))
_NAMES = ("diffusers fp32", "onnxruntime fp32", "onnxruntime fp16")


@pytest.fixture(scope="module")
def shared(exported, tiny_sd_checkpoint) -> Path:
    """A bundle of random weights with engines in fp32 and fp16."""
    return exported(tiny_sd_checkpoint("sd1-small"), precision="fp32,fp16")


@pytest.fixture
def two(shared, tmp_path) -> EditableBundle:
    return EditableBundle(Path(shutil.copytree(shared, tmp_path / "two.bundle")))


class _Memory(VerifyProgress):
    def __init__(self):
        self.sets = {}

    def generated(self, name, images):
        self.sets[name] = images


@pytest.fixture(scope="module")
def passing(shared):
    memory = _Memory()
    return compare_engines(shared, None, _REQUEST, memory), memory.sets


def test_diffusers_and_every_engine_generate_the_same(passing, shared):
    report, sets = passing
    assert tuple(participant.name for participant in report.participants) == tuple(sets) == _NAMES
    assert [check for check in report.checks if not check.passed] == []
    assert (report.passed, report.notes, report.absent) == (True, (), ())
    assert {(pair.a, pair.b) for pair in report.distances} == set(combinations(_NAMES, 2))
    for precision in ("fp32", "fp16"):
        pipeline = load(shared, target="onnxruntime", precision=precision, options=EngineOptions(threads=1))
        for prompt, image in zip(_REQUEST.prompts, sets[f"onnxruntime {precision}"], strict=True):
            mine = pipeline(prompt, seed=0, num_inference_steps=2, guidance_scale=7.5, output_type="np").images[0]
            np.testing.assert_allclose(image, mine, atol=1e-6)


def test_the_numbers_are_those_of_the_images(passing):
    report, sets = passing
    for pair in report.distances:
        errors = [x.astype(np.float64) - y for x, y in zip(sets[pair.a], sets[pair.b], strict=True)]
        psnrs = [-10 * math.log10(np.mean(np.square(error))) for error in errors]
        assert pair.psnr == pytest.approx(min(psnrs), rel=1e-9)
        assert pair.mean_psnr == pytest.approx(sum(psnrs) / 2, rel=1e-9)
        assert pair.max_abs == max(np.abs(error).max() for error in errors)
        assert report.between(pair.b, pair.a) is pair
    exact, half = report.between(*_NAMES[:2]), report.between(_NAMES[0], _NAMES[2])
    assert exact.psnr > 100 > half.psnr, "fp16 was really run"
    limits = {check.subject: check.limit for check in report.checks if check.limit is not None}
    assert limits == {
        "diffusers fp32 | onnxruntime fp32": 60,
        "diffusers fp32 | onnxruntime fp16": 35,
        "onnxruntime fp32 | onnxruntime fp16": 34.5,
    }


def test_a_matrix_is_symmetric_with_dashes_where_nothing_is_to_compare(passing):
    for title in MATRICES:
        rows = matrix(passing[0], title)
        assert [row[0] for row in rows] == list(_NAMES)
        cells = np.array([row[1:] for row in rows])
        assert (cells == cells.T).all()
        assert (cells.diagonal() == "–").all()
        assert (cells != "–").sum() == 6


def test_an_engine_that_generates_something_else_is_far_from_all_others(two):
    two.edit_weight("vae_decoder", "decoder.conv_out.weight", lambda array: array.__imul__(0.8))
    report = compare_engines(two.path, None, _REQUEST)
    assert not report.passed
    failed = {check.subject for check in report.checks if not check.passed}
    assert failed == {"diffusers fp32 | onnxruntime fp32", "onnxruntime fp32 | onnxruntime fp16"}
    assert cross_engine_verdict(report).startswith("FAILED: 2 of 6 checks")


def test_nan_and_an_engine_that_does_not_run_are_faults_of_their_participant(two):
    two.edit_weight("vae_decoder", "decoder.conv_out.bias", lambda array: array.fill(np.nan))
    file = json.loads((two.path / "diffoundry.json").read_text())["components"]["unet"]["engines"][1]["files"][0]
    (two.path / file).write_bytes(b"no graph")
    two.seal()
    report = compare_engines(two.path, None, _REQUEST)
    faults = {check.subject: check.measured for check in report.checks if check.measure == "images"}
    assert faults["diffusers fp32"] == "no NaN, not one colour"
    assert "values are NaN" in faults["onnxruntime fp32"]
    assert "unet" in faults["onnxruntime fp16"]
    (pair,) = report.distances
    assert {pair.a, pair.b} == {"diffusers fp32", "onnxruntime fp32"}
    assert math.isnan(pair.psnr)
    assert not report.passed
    assert matrix(report, "Largest difference, of 1")[2][1:] == ["–"] * 3


def test_without_a_checkpoint_the_engines_are_compared_alone(two):
    _forget_model(two)
    report = compare_engines(two.path, None, _REQUEST)
    assert [participant.name for participant in report.participants] == ["onnxruntime fp32", "onnxruntime fp16"]
    (note,) = report.notes
    assert note.startswith("without diffusers: ")
    assert report.passed


def test_a_named_checkpoint_replaces_a_missing_one(two, tiny_sd_checkpoint):
    _forget_model(two)
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint("sd1-small")))
    report = compare_engines(two.path, checkpoint, VerifyRequest(prompts=("a",), steps=1, precision="fp32"))
    assert [participant.name for participant in report.participants] == ["diffusers fp32", "onnxruntime fp32"]


def test_one_engine_alone_is_nothing_to_compare(two):
    _forget_model(two)
    with pytest.raises(InputError, match="onnxruntime fp32, and nothing to compare it with; add another with 'diff"):
        compare_engines(two.path, None, VerifyRequest(precision="fp32"))


def _forget_model(bundle):
    file = bundle.path / "diffoundry.json"
    manifest = json.loads(file.read_text())
    manifest["recipe"]["model"] = "/gone"
    file.write_text(json.dumps(manifest))


def test_the_report_survives_strict_json(passing):
    data = json.loads(json.dumps(report_to_json(passing[0]), allow_nan=False))
    assert data["schema_version"] == CROSS_ENGINE_SCHEMA_VERSION
    assert from_json(CrossEngineReport, data) == passing[0]


def test_the_page_has_a_column_of_images_for_every_participant(passing):
    report, sets = passing
    sections = cross_engine_sections(report, sets)
    assert [section.title for section in sections if isinstance(section, Table)] == [*MATRICES, "Checks"]
    (images,) = (section for section in sections if isinstance(section, Images))
    assert images.columns == 3
    assert [(one.caption, one.note) for one in images.images if isinstance(one, ReportImage)] == [
        (name, f"{prompt}, seed 0") for prompt in ("a", "b") for name in _NAMES
    ]
    shown = np.asarray(images.images[1].image, dtype=np.float64) / 255
    np.testing.assert_allclose(shown, sets[_NAMES[1]][0], atol=0.5 / 255 + 1e-6)

"""Every engine of a bundle in one table: memory of components, distances from fp32, and engines that cannot run."""

import json
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

from diffoundry.runtime import load
from diffoundry.runtime.bench.component_memory import ComponentMemory
from diffoundry.runtime.bench.engines import EnginesReport, bench_engines
from diffoundry.runtime.bundle.json_codec import from_json
from diffoundry.runtime.cli import console
from diffoundry.runtime.cli.bench import command
from diffoundry.runtime.engines.resident_memory import peak_rss, resident_bytes
from diffoundry.runtime.errors import EngineError, InputError

LARGE = 200 << 20
ROOM = 40 << 20
WORK = ("--steps", 2, "--repeats", 1, "--warmups", 0, "--seed", 5)

known = pytest.mark.skipif(resident_bytes() is None, reason="this system does not report a process's memory")


def run(*arguments):
    with mock.patch.object(console.out, "_width", 300):
        return CliRunner().invoke(command, list(map(str, arguments)))


def image_of(bundle, target):
    pipe = load(bundle, target=target)
    arguments = {"num_inference_steps": 2, "guidance_scale": 7.5, "seed": 5, "output_type": "np"}
    height, width = pipe.default_size
    return pipe("red apple", **arguments, height=height, width=width).images.astype(float)


@pytest.mark.slow
def test_engines_are_compared_with_fp32(portable_bundle):
    bundle = portable_bundle("sd3")
    result = run(bundle, "--all", "--json", *WORK)
    report = from_json(EnginesReport, json.loads(result.stdout))
    assert [(one.target, one.precision) for one in report.engines] == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    first, second = report.engines
    error = image_of(bundle, "openvino") - image_of(bundle, "onnxruntime")
    assert second.distance.psnr == pytest.approx(-10 * np.log10(np.square(error).mean()), abs=3)
    assert first.distance is first.failure is None
    peaks = {name: part.peak_memory for name, part in first.measured.components.items()}
    assert {"text_encoder", "transformer", "vae_decoder"} <= peaks.keys()
    if resident_bytes() is not None:
        assert all(0 < peak < first.measured.peak_rss for peak in peaks.values())


def test_the_table_has_a_row_for_each_engine_that_ran(monkeypatch, wide_bundle):
    bundle, asked = wide_bundle("sd1-tiny"), []

    def measure(_bundle, request, target, precision, _options):
        asked.append((target, precision))
        if precision == "fp16":
            return "no such device"
        from diffoundry.runtime.bench.engines import _measure

        return _measure(bundle, request, target, precision, None)

    monkeypatch.setattr("diffoundry.runtime.bench.engines._in_process", measure)
    result = run(bundle, "--all", "--target", "onnxruntime", *WORK)
    assert asked == [("onnxruntime", "fp32"), ("onnxruntime", "fp16")]
    words = " ".join(result.stdout.split())
    assert "engine load first image image, warm peak memory" in words
    assert "unet, memory" in words
    assert "onnxruntime fp32 " in words
    assert "onnxruntime fp16: not measured: no such device" in result.stderr
    monkeypatch.setattr("diffoundry.runtime.bench.engines._in_process", lambda *_: "no such device")
    with pytest.raises(EngineError, match="none of its engines could be measured; onnxruntime fp32: no such device"):
        bench_engines(bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp32"), "--precision: got it with --all"),
        (("--html", "page.html"), "--html: got it with --all"),
        (("--against", "torch"), "--against: got it with --all"),
        (("--target", "coreml"), "--target: got 'coreml', expected one of onnxruntime"),
    ],
)
def test_what_does_not_go_with_all(emoji_bundle, options, message):
    error = run(emoji_bundle, "--all", *options).exception
    assert isinstance(error, InputError)
    assert str(error).startswith(message)


def test_a_folder_without_a_manifest(scripted_bundle):
    with pytest.raises(InputError, match="got no manifest, so it has one set of engines; leave --all out"):
        bench_engines(scripted_bundle)


@known
def test_a_component_counts_what_it_holds_and_one_call():
    memory = ComponentMemory()
    with memory.opening("unet"):
        held = np.ones(LARGE, np.uint8)
    assert memory.peaks["unet"] == pytest.approx(LARGE, abs=ROOM)
    with memory.opening("vae_decoder"):
        pass
    np.ones(2 * LARGE, np.uint8)
    memory.called("unet")
    np.ones(LARGE, np.uint8)
    memory.called("vae_decoder")
    assert memory.peaks == pytest.approx({"unet": 3 * LARGE, "vae_decoder": LARGE}, abs=ROOM)
    assert memory.highest >= resident_bytes() + 2 * LARGE - ROOM > peak_rss() - ROOM
    assert held.all()

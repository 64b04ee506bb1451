"""PyTorch as a rival: the same image as diffusers' own call, times that add up, and every way to fail."""

import importlib.util
import os
import re
import signal
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch

import diffoundry
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference import baseline, torch_benchmark
from diffoundry.exporter.reference.baseline import GenerateJob, TorchCandidate, torch_candidates
from diffoundry.exporter.reference.torch_benchmark import TorchBenchmark
from diffoundry.runtime.bench import BenchRequest
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, Manifest, dump_manifest
from diffoundry.runtime.bundle.specs import Recipe, Variant
from diffoundry.runtime.errors import EngineError, InputError, MissingExtraError

_REQUEST = BenchRequest(prompt="red apple", negative_prompt="green", steps=4, guidance_scale=5.0, seed=3)


def _job(checkpoint, request=_REQUEST, **values):
    values = {"name": "PyTorch fp32", "dtype": "float32", "compiled": False, "threads": 1, **values}
    return GenerateJob(checkpoint=checkpoint.describe(), request=request, **values)


@pytest.fixture
def checkpoint(tiny_sd_checkpoint):
    return open_checkpoint(str(tiny_sd_checkpoint()))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _diffusers_image(folder, request):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        height=request.height,
        width=request.width,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).images


@pytest.mark.parametrize("variant", ["sd1", "sd2"])
def test_it_generates_the_same_image_as_diffusers(tiny_sd_checkpoint, variant):
    folder = tiny_sd_checkpoint(variant)
    request = BenchRequest(prompt="red apple", steps=3, height=48, width=72, seed=5)
    generation = TorchBenchmark(_job(open_checkpoint(str(folder)), request)).generate()
    # Not equal: where weights begin in memory differs, and on some processors MKL's choice of kernel with it (4.5e-6).
    np.testing.assert_allclose(generation.image, _diffusers_image(folder, request), rtol=0, atol=3e-5)
    assert generation.image.shape == (1, 48, 72, 3)


def test_the_same_image_again(checkpoint):
    benchmark = TorchBenchmark(_job(checkpoint))
    first, second = benchmark.generate(), benchmark.generate()
    np.testing.assert_array_equal(first.image, second.image)
    assert len(first.steps) == len(second.steps)


def test_bf16_starts_from_the_same_noise(checkpoint):
    reference = TorchBenchmark(_job(checkpoint)).generate().image
    benchmark = TorchBenchmark(_job(checkpoint, dtype="bfloat16"))
    error = np.abs(benchmark.generate().image - reference)
    assert 0 < error.max() < 0.1 * np.ptp(reference)
    assert benchmark.facts()["precision"].startswith("bf16, ")


def test_times_are_counted_where_they_are_spent(checkpoint, monkeypatch):
    """On a scripted clock: 5 seconds a UNet call, 7 a text encoder call, 11 the decoder, 1 a scheduler step."""
    benchmark = TorchBenchmark(_job(checkpoint))
    clock = _Clock(monkeypatch)
    for module, method, seconds in (
        (benchmark.pipeline.unet, "forward", 5),
        (benchmark.pipeline.text_encoder, "forward", 7),
        (benchmark.pipeline.vae, "decode", 11),
    ):
        _slow(clock, module, method, seconds)
    benchmark._watch_networks()
    _slow(clock, benchmark.pipeline.scheduler, "step", 1)
    generation = benchmark.generate()
    steps = 5  # PNDM makes one more than the four asked for
    assert generation.steps == (6.0,) * steps
    assert generation.inside == (5.0,) * steps
    assert generation.calls == {"text_encoder": (7.0, 7.0), "unet": (5.0,) * steps, "vae_decoder": (11.0,)}
    assert generation.seconds == 2 * 7 + steps * 6 + 11


class _Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(torch_benchmark.time, "perf_counter", lambda: self.now)


def _slow(clock, module, method, seconds):
    """Let a method take scripted time; it replaces the stopwatch that was around it."""
    function = getattr(type(module), method).__get__(module)

    def slow(*args, **kwargs):
        clock.now += seconds
        return function(*args, **kwargs)

    setattr(module, method, slow)


def test_the_timer_is_outside_of_compiled_code(checkpoint, monkeypatch):
    compiled = []

    def fake_compile(function):
        compiled.append(function.__qualname__)
        return function

    monkeypatch.setattr(torch, "compile", fake_compile)
    benchmark = TorchBenchmark(_job(checkpoint, compiled=True))
    assert compiled == ["AutoencoderKL.decode", "UNet2DConditionModel.forward"]
    assert {name: len(calls) for name, calls in benchmark.generate().calls.items()} == {
        "text_encoder": 2,
        "unet": 5,
        "vae_decoder": 1,
    }
    assert "torch.compile" in benchmark.facts()["target"]


@pytest.mark.parametrize(
    ("features", "words"),
    [(("avx2", "avx512_bf16"), "bf16, native: avx512_bf16"), (("avx2",), "bf16, emulated")],
)
def test_facts_say_whether_bf16_is_native(monkeypatch, features, words):
    import types

    monkeypatch.setattr(torch_benchmark, "machine_facts", lambda: types.SimpleNamespace(features=features))
    assert torch_benchmark._precision("bfloat16").startswith(words)
    assert torch_benchmark._precision("float32") == "fp32"


def _bundle(folder, model, source=None):
    """A bundle of which only the recipe counts."""
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    builds = (Variant(target="onnxruntime", precision="fp32"),)
    recipe = Recipe(model=model, source=source or {}, variants=builds, dims={}, opset=18)
    files = {"model_index.json": {"size": 2, "sha256": _sha256(folder / "model_index.json")}}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        diffoundry=diffoundry.__version__,
        family="stable_diffusion",
        recipe=recipe,
        components={},
        files=files,
    )
    (folder / "diffoundry.json").write_text(dump_manifest(manifest))
    return folder


def _sha256(path):
    from diffoundry.runtime.bundle.checksums import sha256_of

    return sha256_of(path)


def test_the_rivals_of_a_bundle(tiny_sd_checkpoint, tmp_path):
    bundle = _bundle(tmp_path / "b", str(tiny_sd_checkpoint()))
    everybody = torch_candidates(bundle, _REQUEST)
    assert [rival.name for rival in everybody] == ["PyTorch fp32", "PyTorch bf16", "PyTorch compiled"]
    assert [rival.reference for rival in everybody] == [True, False, False]
    assert [rival.name for rival in torch_candidates(bundle, _REQUEST, ["torch-bf16"])] == ["PyTorch bf16"]
    assert len(torch_candidates(bundle, _REQUEST, ["torch", "torch-fp32"])) == 3


def test_random_weights_are_made_again_from_the_recipe(tiny_sd_checkpoint, tmp_path):
    bundle = _bundle(tmp_path / "b", str(tiny_sd_checkpoint()), {"random_weights_seed": "7"})
    (rival,) = torch_candidates(bundle, _REQUEST, ["torch-fp32"])
    assert rival._job.checkpoint["seed"] == 7


def test_an_unknown_form_is_refused(tiny_sd_checkpoint, tmp_path):
    bundle = _bundle(tmp_path / "b", str(tiny_sd_checkpoint()))
    with pytest.raises(InputError, match=r"--against: got 'tensorflow', expected torch or one of torch-fp32, "):
        torch_candidates(bundle, _REQUEST, ["tensorflow"])


def test_a_folder_without_a_manifest_has_no_checkpoint(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/model.onnx").touch()  # as Optimum exports it
    with pytest.raises(InputError, match="without a manifest, so its checkpoint is unknown"):
        torch_candidates(tmp_path, _REQUEST)


@pytest.mark.parametrize("package", ["torch", "diffusers", "transformers"])
def test_missing_packages_are_reported_before_any_work(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(baseline.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtraError, match=rf"measuring PyTorch needs .* '{package}'.*pip install .*\[export\]"):
        torch_candidates("nowhere", _REQUEST)


def test_asking_for_rivals_imports_no_torch(tiny_sd_checkpoint, tmp_path):
    bundle = _bundle(tmp_path / "b", str(tiny_sd_checkpoint()))
    code = (
        "import sys; from diffoundry.exporter.reference.baseline import torch_candidates; "
        "from diffoundry.runtime.bench import BenchRequest; "
        f"torch_candidates({str(bundle)!r}, BenchRequest()); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_process_generates_the_same_and_ends_when_killed(checkpoint):
    candidate = TorchCandidate(_job(checkpoint))
    try:
        load = candidate.load()
        assert 0 < load.open == load.total
        generation = candidate.generate()
        np.testing.assert_array_equal(generation.image, TorchBenchmark(_job(checkpoint)).generate().image)
        assert all(0 < inside < step for inside, step in zip(generation.inside, generation.steps, strict=True))
        facts = candidate.facts()
        assert facts["threads"] == "1"
        assert re.search(rf"torch {re.escape(torch.__version__)}", facts["library"])
        if sys.platform == "linux":
            assert candidate.peak_rss() > 100 * 2**20
        os.kill(candidate._process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="its process was killed, most likely for want of memory"):
            candidate.generate()
    finally:
        candidate.close()
    assert not candidate._process.is_alive()


@pytest.mark.slow
def test_a_process_ends_with_its_reason(checkpoint, tmp_path):
    job = _job(checkpoint)
    candidate = TorchCandidate(
        GenerateJob(
            checkpoint={**job.checkpoint, "root": str(tmp_path / "gone")},
            name="x",
            request=_REQUEST,
            dtype="float32",
            compiled=False,
            threads=None,
        )
    )
    try:
        with pytest.raises(EngineError, match=r"gone/model_index\.json: cannot be read"):
            candidate.load()
    finally:
        candidate.close()
    assert not candidate._process.is_alive()


def test_closing_before_loading_is_nothing(checkpoint):
    TorchCandidate(_job(checkpoint)).close()


def test_a_reason_is_one_short_line():
    text = baseline._sentence(RuntimeError("no\n  compiler " + "x" * 1000 + "\n\nSet VERBOSE=1"))
    assert text.startswith("RuntimeError: no compiler xxx")
    assert len(text) < 450
    assert baseline._sentence(RuntimeError("no compiler\n\nSet VERBOSE=1")) == "RuntimeError: no compiler"
    assert baseline._sentence(InputError("height: got 7")) == "height: got 7"


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a C++ compiler at work, perhaps not alone
def test_torch_compile_generates_the_same(checkpoint):
    eager = TorchBenchmark(_job(checkpoint)).generate().image
    candidate = TorchCandidate(_job(checkpoint, compiled=True))
    try:
        candidate.load()
        np.testing.assert_allclose(candidate.generate().image, eager, atol=1e-4)
    finally:
        candidate.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a C++ compiler at work, perhaps not alone
def test_a_missing_compiler_is_the_reason(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    candidate = TorchCandidate(_job(checkpoint, compiled=True))
    try:
        candidate.load()
        with pytest.raises(EngineError, match=r"(?i)compiler"):
            candidate.generate()
    finally:
        candidate.close()

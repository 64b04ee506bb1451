"""Commands on bundles of Shap-E: latents in files, verify, bench and inspect. Priors write their embeddings too."""

import json
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, safe_open
from tiny_kandinsky import make_prior
from tiny_shap_e import NAMES, SIDE, TOKENS, WIDTH, make_shap_e

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify.cross_engine import compare_engines
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.run import verify
from diffoundry.runtime import load
from diffoundry.runtime.cli.bench import command as bench
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.example_inputs import make_example_inputs

TEXT, IMAGE = NAMES


@pytest.fixture
def bundle(system_checkpoint, exported):
    def find(name):
        folder = system_checkpoint(name, partial(make_shap_e, name=name))
        return exported(folder, target="onnxruntime,openvino" if name == TEXT else "onnxruntime"), folder

    return find


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Generate in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(generate, [*map(str, words), "--seed", "0", "--steps", "2"])

    return call


def test_latents_are_written_with_their_settings(bundle, run, tmp_path):
    folder, _ = bundle(TEXT)
    ours = load(folder)
    expected = ours(["a shark", "an apple"], seed=0, num_inference_steps=2).images
    result = run(folder, "a shark", "an apple", "-o", "x.safetensors", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout)["files"] == ["x-0.safetensors", "x-1.safetensors"]
    for index, prompt in enumerate(("a shark", "an apple")):
        path = tmp_path / f"x-{index}.safetensors"
        np.testing.assert_array_equal(load_file(path)["latents"], expected[index])
        with safe_open(path, "np") as opened:
            settings = json.loads(opened.metadata()["diffoundry"])["settings"]
        assert settings["prompt"][settings["image_index"]] == prompt
        assert (settings["num_inference_steps"], settings["seed"], settings["scheduler"]) == (2, 0, "HeunDiscrete")
    assert run(folder, "a shark", "-o", "y.npy").exit_code == 0
    np.testing.assert_array_equal(np.load("y.npy")[None], ours("a shark", seed=0, num_inference_steps=2).images)
    for number in (1, 2):
        result = run(folder, "a shark")
        assert f"out-000{number}.safetensors (seed 0, " in result.output
    refused = run(folder, "a shark", "-o", "x.png")
    assert "image x.png: got the suffix '.png', expected one of .safetensors, .npy; name it x.safetensors" in str(
        refused.exception
    )


def test_latents_are_no_part_of_a_chain(bundle, run):
    folder, _ = bundle(TEXT)
    refused = str(run(f"{folder}+{folder}", "a shark").exception)
    assert "(ShapEPipeline) gives nothing that another pipeline takes; expected a prior and its decoder" in refused


def test_an_image_becomes_latents(bundle, run, tmp_path):
    folder, _ = bundle(IMAGE)
    image = make_example_inputs(["image"], SIDE, SIDE)["image"]
    image.save(tmp_path / "a.png")
    result = run(folder, "--image", "a.png", "-o", "x.npy", "--num-images", "2")
    assert result.exit_code == 0, (result.output, result.exception)
    expected = load(folder)(image=image, seed=0, num_inference_steps=2, num_images_per_prompt=2).images
    np.testing.assert_array_equal([np.load("x-0.npy"), np.load("x-1.npy")], expected)
    assert "PROMPT: got" in str(run(folder, "a shark", "--image", "a.png").exception)
    assert "image: got none, expected an image of an object" in str(run(folder).exception)


def test_a_prior_writes_its_embeddings(system_checkpoint, exported, run, tmp_path):
    folder = exported(system_checkpoint("kandinsky-prior", make_prior), target="onnxruntime,openvino")
    result = run(folder, "a cat", "--negative", "a dog", "-o", "x.safetensors")
    assert result.exit_code == 0, (result.output, result.exception)
    expected = load(folder)("a cat", negative_prompt="a dog", seed=0, num_inference_steps=2)
    written = load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(written["image_embeds"], expected.image_embeds[0])
    np.testing.assert_array_equal(written["negative_image_embeds"], expected.negative_image_embeds[0])
    assert (
        "--output x.npy: got a file for one array, expected one for image_embeds and negative_image_embeds; name it "
        "x.safetensors"
    ) in str(run(folder, "a cat", "-o", "x.npy").exception)
    assert "or write the embeddings with -o NAME.safetensors" in str(run(folder, "a cat").exception)


@pytest.mark.parametrize("name", [TEXT, pytest.param(IMAGE, marks=pytest.mark.slow)])
def test_verify_compares_latents(bundle, name):
    folder, checkpoint = bundle(name)
    # In two steps the noise falls from 403 to 0.1, where float32 rounds alike in no two orders of operations.
    request = VerifyRequest(steps=4, guidance_scale=3.0, prompts=("a cat",), target="onnxruntime")
    report = verify(folder, open_checkpoint(str(checkpoint)), request)
    assert [check for check in report.all_checks if not check.passed] == []
    (variant,) = report.variants
    loop = variant.loops[0]
    assert loop.steps == 7
    assert 0 <= loop.embeddings < 1e-4
    assert {output.component for output in variant.outputs} == set(variant.engines)
    if name == TEXT:
        with pytest.raises(InputError, match=f"got a {name}, which makes embeddings and no image"):
            compare_engines(folder)


@pytest.mark.parametrize("name", [TEXT, pytest.param(IMAGE, marks=pytest.mark.slow)])
def test_bench_and_inspect(bundle, name):
    folder, _ = bundle(name)
    options = ["--steps", "2", "--repeats", "1", "--warmups", "0", "--target", "onnxruntime", "--json"]
    result = CliRunner().invoke(bench, [str(folder), *options])
    assert result.exit_code == 0, (result.output, result.exception)
    work = json.loads(result.stdout)["work"]
    assert (work["height"], work["width"]) == (TOKENS, WIDTH)
    result = CliRunner().invoke(inspect, [str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["manifest"]["family"] == ("shap_e" if name == TEXT else "shap_e_image")


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_shap_e, make_prior])
def test_bench_measures_pytorch_beside_it(system_checkpoint, exported, make):
    name = TEXT if make is make_shap_e else "kandinsky-prior"
    folder = exported(system_checkpoint(name, make), target="onnxruntime,openvino")
    options = ["--steps", "4", "--repeats", "1", "--warmups", "0", "--target", "onnxruntime", "--json"]
    result = CliRunner().invoke(bench, [str(folder), *options, "--against", "torch-fp32"])
    assert result.exit_code == 0, (result.output, result.exception)
    ours, theirs = json.loads(result.stdout)["candidates"]
    assert ours["measured"]["distance"]["psnr"] > 60
    assert theirs["name"] == "PyTorch fp32"

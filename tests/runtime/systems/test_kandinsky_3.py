"""Kandinsky 3's pipelines against diffusers, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL.Image import fromarray
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_kandinsky_3 import WIDTH, make_kandinsky_3

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.baseline import torch_candidates
from diffoundry.exporter.reference.torch_benchmark import TorchBenchmark
from diffoundry.runtime import load
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bench.request import BenchRequest
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.kandinsky3_unet import TOKENS, Kandinsky3UNet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("kandinsky-3", make_kandinsky_3)


@pytest.fixture(scope="module")
def bundle(exported, folder):
    return exported(folder, target="onnxruntime,openvino")


@pytest.fixture(scope="module")
def pipelines(bundle):
    """Target to its pipeline, with the engines that tests before have opened."""
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture
def ours(pipelines):
    return pipelines["onnxruntime"]


@pytest.fixture(scope="module")
def theirs(folder):
    return {name: open_theirs(folder, name) for name in CASES}


def picture(width=64, height=64, seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TWO = ["a cat", "a red apple on the table"]
LONG = "a dog in the garden of the house under a tree with the sun"
SEVERAL = {"prompt": TWO, "negative_prompt": ["blue", LONG], "num_images_per_prompt": 2}

CASES = {
    "Kandinsky3Pipeline": [
        {"prompt": "a red apple", "height": 64, "width": 128},
        {**SEVERAL, "height": 64, "width": 64},
        {"prompt": LONG * 20, "negative_prompt": "", "guidance_scale": 1.0, "height": 64, "width": 64},
    ],
    "Kandinsky3Img2ImgPipeline": [
        {"prompt": "a cat", "image": picture(96, 64), "strength": 0.7},
        {**SEVERAL, "image": [picture(), picture(seed=1)], "strength": 1.0},
        {"prompt": "a cat", "image": torch.from_numpy(numbers(1, 3, 64, 64)).sigmoid(), "guidance_scale": 1.0,
         "strength": 0.4},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_diffusers(pipelines, theirs, name):
    _, several, _ = CASES[name]
    for target, cases in {"onnxruntime": CASES[name], "openvino": [several]}.items():
        for arguments in cases:
            compare_system(pipelines[target], theirs[name], num_inference_steps=3, **arguments)


@pytest.mark.parametrize("negative", [{}, {"negative_prompt": ["", LONG]}])
def test_engines_of_one_number_of_tokens_compute_the_same(ours, theirs, monkeypatch, negative):
    """Prompts are padded for them, where diffusers cuts. Its mean over the tokens is that of the cut prompt."""
    cut, fed = [], []
    fill, run = Kandinsky3UNet.fill, Kandinsky3UNet.__call__

    def count(unet, conditioning):
        cut.append(conditioning["encoder_hidden_states"].shape[1])
        return fill(unet, conditioning)

    def watch(unet, sample, timestep, conditioning):
        fed.append(conditioning["encoder_attention_mask"].shape[1])
        return run(unet, sample, timestep, conditioning)

    monkeypatch.setattr(Kandinsky3UNet, "token_limit", TOKENS)
    monkeypatch.setattr(Kandinsky3UNet, "fill", count)
    monkeypatch.setattr(Kandinsky3UNet, "__call__", watch)
    arguments = {"prompt": TWO, "height": 64, "width": 64, "num_inference_steps": 2, **negative}
    compare_system(ours, theirs["Kandinsky3Pipeline"], **arguments)
    assert max(cut) < TOKENS
    assert set(fed) == {TOKENS}


def test_padding_is_left_out_even_where_no_one_attends_to_a_token(ours, theirs):
    """As with embeddings whose mask is zero, which then all count alike."""
    network = theirs["Kandinsky3Pipeline"].unet
    sample, states = numbers(2, 4, 8, 8), numbers(2, 5, WIDTH, seed=1)
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, (sample, np.array(500), states, mask))).sample.numpy()
    feeds = {
        "encoder_hidden_states": np.pad(states, ((0, 0), (0, 9), (0, 0))),
        "encoder_attention_mask": np.pad(mask, ((0, 0), (0, 9)), constant_values=-1),
    }
    np.testing.assert_allclose(ours.unet(sample, 500, feeds), expected, atol=1e-5)


def test_embeddings_of_a_prompt(ours, theirs):
    """Those that diffusers made, cut as its call cuts them; also without a negative prompt, or one in words."""
    reference = theirs["Kandinsky3Pipeline"]
    made = reference.encode_prompt(TWO, negative_prompt=["blue", LONG], _cut_context=True)
    names = ("prompt_embeds", "negative_prompt_embeds", "attention_mask", "negative_attention_mask")
    tensors = dict(zip(names, made, strict=True))
    size = {"height": 64, "width": 64, "num_inference_steps": 2, "num_images_per_prompt": 2}
    positive = ("prompt_embeds", "attention_mask")
    for kept, words in ((names, {}), (positive, {}), (positive, {"negative_prompt": ["blue", "a cat"]})):
        given = {name: tensors[name] for name in kept}
        arrays = {name: tensor.detach().numpy() for name, tensor in given.items()}
        compare_system(ours, reference, ours_only=arrays, theirs_only=given, **size, **words)


def test_other_schedulers(bundle, folder):
    """That of the alias, whose thresholds have no largest value, and one that draws nothing."""
    published = open_checkpoint("kandinsky-3", random_weights=True).scheduler_configs["scheduler"]
    pipeline, ours = open_theirs(folder, "Kandinsky3Pipeline"), load(bundle, target="onnxruntime")
    for made in (
        diffusers.DDPMScheduler.from_config(published),
        diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config),
    ):
        pipeline.scheduler, ours.scheduler_config = made, dict(made.config)
        compare_system(ours, pipeline, prompt="a cat", height=64, width=64, num_inference_steps=3)


def test_defaults_are_diffusers(ours):
    for name, given in {"Kandinsky3Pipeline": (), "Kandinsky3Img2ImgPipeline": ("image",)}.items():
        kind = ours.inputs_class(given)
        for argument, parameter in inspect.signature(getattr(diffusers, name).__call__).parameters.items():
            own = kind.__dataclass_fields__.get(argument)
            if own is not None and argument not in ("height", "width"):
                assert own.default == parameter.default, (name, argument)
    assert ours.default_size == (1024, 1024)


ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and prompt_embeds: got neither"),
    "no mask": (
        {"prompt": None, "prompt_embeds": numbers(1, 5, WIDTH)},
        r"attention_mask: got none with prompt_embeds, expected one \(1, 5\), 1 for a token and 0 for padding",
    ),
    "a mask alone": (
        {"attention_mask": np.ones((1, 5))},
        "attention_mask: got one without prompt_embeds, expected none; the tokenizer masks a text",
    ),
    "a short mask": (
        {"negative_prompt_embeds": numbers(1, 5, WIDTH), "negative_attention_mask": np.ones((1, 4))},
        r"negative_attention_mask: got shape \(1, 4\), expected \(1, 5\) of 1 and 0, as negative_prompt_embeds has",
    ),
    "a mask of other numbers": (
        {"negative_prompt_embeds": numbers(1, 5, WIDTH), "negative_attention_mask": np.full((1, 5), 2)},
        "negative_attention_mask: got other numbers than 1 and 0",
    ),
    "a list as a mask": (
        {"negative_prompt_embeds": numbers(1, 5, WIDTH), "negative_attention_mask": [[1] * 5]},
        r"negative_attention_mask: got list, expected a NumPy array \(1, 5\) of 1 and 0",
    ),
    "other tokens": (
        {"negative_prompt_embeds": numbers(1, 50, WIDTH), "negative_attention_mask": np.ones((1, 50))},
        "encoder_hidden_states: got shapes .* expected the same",
    ),
    "a width": (
        {"negative_prompt_embeds": numbers(1, 5, 7), "negative_attention_mask": np.ones((1, 5))},
        f"negative_prompt_embeds: got 7 numbers a token, expected {WIDTH}",
    ),
    "an odd size": ({"height": 100}, "height: got 100, expected a multiple of 16"),
    "an odd image": ({"image": picture(72, 64)}, "image: got 72 x 64 pixels, expected multiples of 16; resize"),
    "another size": ({"image": picture(), "height": 128}, "height: got 128, expected the image's 64; leave it out"),
    "latents and an image": (
        {"image": picture(), "latents": numbers(1, 4, 8, 8)},
        "image and latents: got both, expected at most one",
    ),
    "latents": (
        {"latents": numbers(1, 4, 4, 4), "height": 64, "width": 64},
        r"latents: got shape \(1, 4, 4, 4\), expected \(1, 4, 8, 8\)",
    ),
    "no step": ({"image": picture(), "strength": 0.1}, "strength: got 0.1, which leaves no step"),
    "a strength alone": ({"strength": 0.5}, "image: got none, expected the image to start from"),
    "a strength": ({"image": picture(), "strength": 1.5}, "strength: got 1.5, expected a number above 0"),
    "three images": ({"image": [picture()] * 3, "prompt": TWO, "strength": 1.0}, "image: got 3 for 2 images"),
    "a scale": ({"guidance_scale": -1.0}, "guidance_scale: got -1.0"),
}


def test_wrong_arguments_are_refused(ours):
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours(**{"prompt": "a cat", "num_inference_steps": 2, **arguments})


def test_more_tokens_than_an_engine_takes_are_refused(ours, monkeypatch):
    monkeypatch.setattr(Kandinsky3UNet, "token_limit", 4)
    embeds = {"prompt_embeds": numbers(1, 5, WIDTH), "attention_mask": np.ones((1, 5), bool)}
    with pytest.raises(InputError, match="prompt_embeds: got 5 tokens, expected at most 4: the engine of 'unet' was"):
        ours(**embeds, height=64, width=64, num_inference_steps=1)


@pytest.fixture(scope="module")
def embedding_bundle(exported, folder):
    """A bundle without the text encoder."""
    return exported(folder, without=("text_encoder",))


def test_a_bundle_without_a_text_encoder_takes_embeddings(embedding_bundle, theirs):
    ours = load(embedding_bundle)
    assert set(ours.session.bundle.components) == {"unet", "vae_encoder", "vae_decoder"}
    assert not ours.session.bundle.has("tokenizer/tokenizer.json")
    arrays = {"prompt_embeds": numbers(1, 5, WIDTH), "attention_mask": np.array([[1, 1, 1, 1, 0]])}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    settings = {"height": 64, "width": 64, "num_inference_steps": 2}
    compare_system(ours, theirs["Kandinsky3Pipeline"], ours_only=arrays, theirs_only=tensors, **settings)
    for name, arguments in (("prompt", {"prompt": "a cat"}), ("negative_prompt", {**arrays, "negative_prompt": "a"})):
        with pytest.raises(InputError, match=f"{name}: got a text, expected {name}_embeds, since this bundle has no"):
            ours(**arguments, **settings)


def test_measurements_without_a_text_encoder_draw_embeddings(embedding_bundle):
    """The same for PyTorch, beside which a prompt would be refused."""
    request = BenchRequest(steps=2, guidance_scale=3.0, height=64, width=64)
    (candidate,) = torch_candidates(embedding_bundle, request, ["torch-fp32"])
    ours = BundleCandidate(embedding_bundle, request)
    ours.load()
    image = TorchBenchmark(candidate._job).generate().image
    np.testing.assert_allclose(ours.generate().image, image, atol=1e-3)


def test_generate(bundle, ours, tmp_path):
    picture().save(tmp_path / "start.png")
    settings = ["--steps=2", "--seed=3", "--negative-prompt=blue", "--guidance-scale=4"]
    expected = {"num_inference_steps": 2, "seed": 3, "negative_prompt": "blue", "guidance_scale": 4.0}
    for options, arguments in (
        (["--height=64", "--width=64"], {"height": 64, "width": 64}),
        ([f"--image={tmp_path}/start.png", "--strength=1"], {"image": picture(), "strength": 1.0}),
    ):
        told = CliRunner().invoke(generate, [str(bundle), "a cat", *settings, *options, f"-o{tmp_path}/out.png"])
        assert told.exit_code == 0, told.output
        (image,) = ours("a cat", **expected, **arguments).images
        np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))

"""FLUX.1 Redux, alone and chained with FLUX.1, against diffusers' own pipelines."""

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL.Image import fromarray
from PIL.Image import open as open_image
from safetensors.numpy import load_file
from system_pair import open_theirs
from tiny_flux import DEV, WIDTH, make_flux, make_redux

from diffoundry.exporter.reference.calls import call_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.inspect import command as inspect_bundle
from diffoundry.runtime.cli.schedulers import command as schedulers
from diffoundry.runtime.cli.set import command as set_defaults
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.chain import chain

pytestmark = pytest.mark.slow

REDUX = "FluxPriorReduxPipeline"
TARGETS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return {
        "redux": system_checkpoint("flux-redux", make_redux),
        "plain": system_checkpoint("flux-redux-plain", lambda folder: make_redux(folder, texts=False)),
        "flux": system_checkpoint("flux-dev", lambda folder: make_flux(folder, **DEV)),
    }


@pytest.fixture(scope="module")
def bundles(folders, exported):
    return {name: exported(folder, target=",".join(TARGETS)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders):
    """diffusers' pipelines: Redux with the text encoders of FLUX.1, as its page in diffusers has it, and FLUX.1."""
    flux = open_theirs(folders["flux"], "FluxPipeline")
    parts = {name: getattr(flux, name) for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
    chained = diffusers.FluxPriorReduxPipeline.from_pretrained(folders["plain"], **parts)
    return {"redux": open_theirs(folders["redux"], REDUX), "chained": chained, "flux": flux}


def image(seed=0, side=40):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (side, 36, 3), np.uint8))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CASES = {
    "one image": {"image": image(), "prompt": "a cat"},
    "two texts and a scale": {
        "image": image(side=21), "prompt": "a cat", "prompt_2": "snow", "prompt_embeds_scale": 0.5,
        "pooled_prompt_embeds_scale": 2.0,
    },
    "several images": {
        "image": [image(), image(1), image(2).convert("L")], "prompt": ["a cat", "a dog", ""],
        "prompt_embeds_scale": [1.0, 0.25, -1.0], "pooled_prompt_embeds_scale": [0.5, 1.0, 0.0],
    },
    "embeddings": {
        "image": [image(), image(1)], "prompt_embeds": normal(2, 9, WIDTH), "pooled_prompt_embeds": normal(2, 32),
    },
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_embeddings_are_those_of_diffusers(bundles, theirs, target):
    ours = load(bundles["redux"], target=target)
    for name, case in CASES.items():
        made = ours(**case)
        tensors = {key: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for key, one in case.items()}
        output = theirs["redux"](**tensors)
        for rows, expected in zip(made.to_tuple(), (output.prompt_embeds, output.pooled_prompt_embeds), strict=True):
            assert rows.shape == expected.shape, name
            np.testing.assert_allclose(rows, expected, atol=1e-5 * np.abs(expected.numpy()).max(), err_msg=name)
        assert np.array_equal(made[0], made.prompt_embeds)


def test_without_text_encoders_the_text_is_zeros(bundles, theirs, monkeypatch):
    """diffusers writes down the widths of the published model, which are larger than those of a tiny one."""
    zeros = torch.zeros
    widths = {4096: WIDTH, 768: 768}
    monkeypatch.setattr(torch, "zeros", lambda shape, **options: zeros((*shape[:-1], widths[shape[-1]]), **options))
    monkeypatch.setattr(theirs["chained"], "text_encoder", None)
    output = theirs["chained"]([image(), image(1)], prompt_embeds_scale=[1.0, 0.5])
    made = load(bundles["plain"], target="onnxruntime")(image=[image(), image(1)], prompt_embeds_scale=[1.0, 0.5])
    expected = output.prompt_embeds.numpy()
    np.testing.assert_allclose(made.prompt_embeds, expected, atol=1e-5 * np.abs(expected).max())
    assert not made.pooled_prompt_embeds.any()
    assert made.pooled_prompt_embeds.shape == output.pooled_prompt_embeds.shape == (1, 768)


CHAINS = {
    "one image": {"image": image(), "prompt": "a cat", "guidance_scale": 2.5},
    "several, with true guidance": {
        "image": [image(), image(1)], "prompt": ["a cat", "a dog"], "prompt_embeds_scale": [1.0, 0.4],
        "num_images_per_prompt": 2, "height": 24,
    },
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_step_of_the_chain_is_diffusers(bundles, theirs, target):
    """The text encoders of FLUX.1 read the prompts."""
    ours = chain(*(load(bundles[name], target=target) for name in ("plain", "flux")))
    few = {"height": 16, "width": 24, "num_inference_steps": 3}
    for name, case in CHAINS.items():
        arguments = {**few, **case}
        own = {key: arguments.pop(key) for key in ("image", "prompt", "prompt_embeds_scale") if key in arguments}
        steps = []
        output = call_pipeline(
            theirs["flux"], None, lambda _index, _time, latents, to=steps: to.append(latents.numpy().copy()),
            generator=torch.Generator().manual_seed(0), output_type="np", **theirs["chained"](**own), **arguments,
        )  # fmt: skip
        own["prior_image"] = own.pop("image")
        run = ours.start(seed=0, output_type="np", **own, **arguments)
        found = [ours.last.pack(step.latents) for step in run]
        assert run.total == len(found) == 3
        for latents, expected in zip(found, steps, strict=True):
            np.testing.assert_allclose(latents, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)
        np.testing.assert_allclose(run.finish().images, output.images, atol=1e-3)


def test_without_a_prompt_the_chain_reads_the_image_alone(bundles):
    ours = chain(*(load(bundles[name], target="onnxruntime") for name in ("plain", "flux")))
    few = {"height": 16, "width": 16, "num_inference_steps": 1, "seed": 0, "output_type": "latent"}
    images = [ours(prior_image=shown, prompt=text, **few).images for shown, text in ((image(), None), (image(1), None))]
    images.append(ours(prior_image=image(), prompt="a cat", **few).images)
    for index, one in enumerate(images):
        assert all(np.abs(one - other).max() > 1e-4 for other in images[:index])
    assert not ours.needs_prompt


def test_generate_writes_embeddings_and_chained_images(bundles, tmp_path):
    file, output, image_file = tmp_path / "image.png", tmp_path / "made.safetensors", tmp_path / "chained.png"
    image().save(file)
    prior, flux = str(bundles["plain"]), str(bundles["flux"])
    common = ["--seed", "0", "--target", "onnxruntime"]
    weak = ["--prompt-embeds-scale", "0.5", "-o", str(output)]
    result = CliRunner().invoke(generate, [prior, "--image", str(file), *common, *weak])
    assert result.exit_code == 0, (result.output, result.exception)
    expected = load(prior, target="onnxruntime")(image=image(), prompt_embeds_scale=0.5)
    np.testing.assert_array_equal(load_file(output)["prompt_embeds"], expected.prompt_embeds[0])
    few = ["--steps", "2", "--height", "16", "--width", "16", "-o", str(image_file)]
    result = CliRunner().invoke(generate, [f"{prior}+{flux}", "a cat", "--prior-image", str(file), *common, *few])
    assert result.exit_code == 0, (result.output, result.exception)
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in (prior, flux)))
    made = ours("a cat", prior_image=image(), seed=0, num_inference_steps=2, height=16, width=16).images[0]
    with open_image(image_file) as read:
        assert np.array_equal(np.asarray(read), np.asarray(made))


def test_commands_about_schedulers_say_that_there_is_none(bundles):
    bundle = str(bundles["plain"])
    shown = CliRunner().invoke(inspect_bundle, [bundle])
    assert "scheduler  none" in shown.output
    for command, more in ((schedulers, []), (set_defaults, ["scheduler=euler"])):
        wrong = CliRunner().invoke(command, [bundle, *more])
        assert "got a FluxPriorReduxPipeline, which has no scheduler and no steps" in str(wrong.exception)
    ours = load(bundle, target="onnxruntime")
    assert "no scheduler" in repr(ours)
    with pytest.raises(InputError, match="scheduler: FluxPriorReduxPipeline has no scheduler and no steps"):
        _ = ours.scheduler


PAIR = {"prompt_embeds": normal(1, 9, WIDTH), "pooled_prompt_embeds": normal(1, 32)}
ERRORS = {
    "no image": ({"image": None}, "image: got none, expected the image that the prompt is made of"),
    "an array": ({"image": normal(1, 3, 28, 28)}, "image: got ndarray, expected a PIL image or a list of them"),
    "an empty list": ({"image": []}, "image: got an empty list, expected a PIL image"),
    "other prompts": ({"prompt": ["a", "b"]}, "prompt: got 2 entries, expected a string or 1 of them"),
    "prompt_2 alone": ({"prompt_2": "a"}, "prompt_2 needs prompt, which CLIP reads; pass both"),
    "both": ({"prompt": "a", **PAIR}, "prompt and prompt_embeds: got both, expected one of them"),
    "half": (
        {"prompt_embeds": PAIR["prompt_embeds"]},
        "prompt_embeds and pooled_prompt_embeds: got one of them, expected both",
    ),
    "a width": ({**PAIR, "pooled_prompt_embeds": normal(1, 5)}, "pooled_prompt_embeds: got 5 numbers a row, expected"),
    "scales": (
        {"prompt_embeds_scale": [1.0, 2.0]},
        "prompt_embeds_scale: got 2 numbers for 1 images, expected one, or one for each",
    ),
    "a scale": ({"pooled_prompt_embeds_scale": "much"}, "pooled_prompt_embeds_scale: got .* expected"),
    "a scheduler": ({"scheduler": "ddim"}, "scheduler: got one, expected none: FluxPriorReduxPipeline has no steps"),
    "a cache": ({"cache": "taylor:1"}, "cache: got one, expected none"),
}


def test_wrong_arguments_are_refused(bundles):
    ours = load(bundles["redux"], target="onnxruntime")
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"image": image(), **arguments})
    alone = load(bundles["plain"], target="onnxruntime")
    with pytest.raises(InputError, match=r"prompt: got one, but .* has no text encoders; chain it with FLUX.1"):
        alone.start("a cat", image=image())
    with pytest.raises(InputError, match=r"chain: .* gives nothing that another pipeline takes|but .* takes none"):
        chain(load(bundles["plain"]), load(bundles["redux"]))

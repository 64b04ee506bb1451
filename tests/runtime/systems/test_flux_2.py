"""FLUX.2 klein against diffusers' own pipelines on tiny random checkpoints, after every step."""

import inspect
import json
import math

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from PIL.Image import Image, fromarray
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_flux_2 import LATENTS, WIDTH, make_klein

from diffoundry.exporter.components.flux2_transformer import flux2_transformer
from diffoundry.exporter.families import flux_2 as exporter_family
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.prompt_notes import prompt_notes
from diffoundry.runtime.engines.body_cache import watch_bodies
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.pipelines.families import flux_2 as runtime_family
from diffoundry.runtime.pipelines.tasks.editing import read_reference
from diffoundry.runtime.schedulers.dynamic_shift import empirical_mu

KLEIN = "Flux2KleinPipeline"
LAYERS = 0, 1, 2
"""Hidden states that tests read: those of diffusers' defaults take 27 layers, which are traced in slow tests."""

GENERATOR = np.random.default_rng(0)


def noise(height, width) -> Image:
    return fromarray(GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8))


IMAGE, OTHER, BAND = noise(70, 101), noise(64, 80), noise(80, 66)
MASK = fromarray(((GENERATOR.random((70, 101)) > 0.4) * 255).astype(np.uint8))
TWO = ["a cat", "a red apple on the table"]
FEW = {"height": 16, "width": 24, "max_sequence_length": 20, "num_inference_steps": 3}


@pytest.fixture(scope="module", autouse=True)
def _few_layers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter_family, "KLEIN", exporter_family.declare_klein(LAYERS))
        patch.setattr(exporter_family, "KLEIN_KV", exporter_family.declare_klein(LAYERS, apart=True))
        patch.setattr(runtime_family, "KLEIN_LAYERS", LAYERS)
        yield


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("flux-2-klein-short", lambda folder: make_klein(folder, layers=3))


@pytest.fixture(scope="module")
def ours(exported, folder):
    """Target to the pipeline."""
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(folder):
    return open_theirs(folder, KLEIN)


@pytest.fixture(scope="module")
def inpaint(theirs):
    return diffusers.Flux2KleinInpaintPipeline(**theirs.components, is_distilled=False)


def compare(ours, theirs, **arguments):
    return compare_system(
        ours, theirs, theirs_only={"text_encoder_out_layers": LAYERS}, **{"prompt": "a cat", **FEW, **arguments}
    )


CASES = {
    "guided": {"prompt": TWO, "num_images_per_prompt": 2, "guidance_scale": 3.0, "height": 40},
    "unguided": {"guidance_scale": 1.0, "max_sequence_length": 512},
    "sigmas": {"sigmas": [1.0, 0.6, 0.2]},
    "an image": {"image": IMAGE},
    "images": {"prompt": TWO, "image": [OTHER, BAND], "height": None, "width": None, "guidance_scale": 2.0},
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(ours, theirs, target):
    for case in CASES if target == "onnxruntime" else ("guided", "an image"):
        compare(ours[target], theirs, **CASES[case])


def test_guidance_in_some_steps_sees_the_image(ours):
    """A step without guidance is that of the prompt alone, beside its image."""
    arguments = {"image": OTHER, "seed": 0, **FEW}
    alone = next(iter(ours["onnxruntime"].start("a cat", guidance_scale=1.0, **arguments))).latents
    late = next(iter(ours["onnxruntime"].start("a cat", guidance_scale=4.0, guidance_interval=(0.9, 1.0), **arguments)))
    np.testing.assert_allclose(late.latents, alone, atol=1e-6)


INPAINTING = {
    "defaults": {},
    "a reference": {"strength": 1.0, "guidance_scale": 1.0, "image_reference": OTHER},
    "several for each": {"image_reference": [OTHER, BAND.resize(OTHER.size), OTHER.rotate(90)], "prompt": TWO},
    "one for each": {"image_reference": [OTHER, OTHER.rotate(90)], "prompt": TWO, "strength": 0.5},
    "latents": {
        "image": torch.from_numpy(GENERATOR.standard_normal((2, 4 * LATENTS, 16, 20), np.float32)), "prompt": TWO,
        "image_reference": torch.from_numpy(GENERATOR.standard_normal((1, 4 * LATENTS, 3, 5), np.float32)),
    },
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_of_inpainting_is_diffusers(ours, inpaint, target):
    image = {"image": OTHER, "mask_image": MASK.resize(OTHER.size), "height": None, "width": None, "watch": False}
    for case in INPAINTING if target == "onnxruntime" else ("a reference",):
        compare(ours[target], inpaint, **{**image, **INPAINTING[case]})


@pytest.mark.slow
def test_parts_of_a_split_transformer_have_the_bits_of_the_whole(ours, exported, folder):
    """Bundles of one export, without and with images to see; `first-block` compares their tokens too."""
    cut = load(exported(folder, split=True))
    for more in ({}, {"image": [OTHER, BAND], "height": None, "width": None}):
        arguments = {**FEW, "guidance_scale": 2.0, "seed": 0, "num_inference_steps": 5, **more}
        whole, parts = ([step.latents for step in pipe.start(TWO, **arguments)] for pipe in (ours["onnxruntime"], cut))
        assert all(map(np.array_equal, whole, parts))
        for cache in ("first-block:9:final=1", "deep:2:final=0"):
            with watch_bodies() as calls:
                kept = [step.latents for step in cut.start(TWO, **arguments, cache=cache)]
            assert not all(calls)
            assert np.array_equal(kept[0], whole[0])
            assert np.isfinite(kept[-1]).all()


@pytest.mark.slow
def test_odd_sizes_are_cut_to_tokens_as_diffusers_does(ours, theirs, inpaint):
    image = {"image": IMAGE, "mask_image": MASK, "height": None, "width": None, "watch": False}
    compare(ours["onnxruntime"], inpaint, **image)


def test_large_images_are_resized_and_cut_as_diffusers_does():
    processor = Flux2ImageProcessor()
    for size in ((1500, 800), (1024, 1040), (999, 70)):
        image = noise(67, 91).resize(size)
        small = processor._resize_if_exceeds_area(image)
        height, width = (side // 16 * 16 for side in (small.height, small.width))
        expected = processor.preprocess(small, height=height, width=width, resize_mode="crop")
        np.testing.assert_array_equal(read_reference(image, 16), expected)


@pytest.mark.slow
def test_an_inpainted_region_is_resized_into_the_image(ours, inpaint, monkeypatch):
    """As other pipelines of diffusers do. That of FLUX.2 cuts the middle out of the generated image instead."""
    monkeypatch.setattr(
        Flux2ImageProcessor, "_resize_and_crop", diffusers.image_processor.VaeImageProcessor._resize_and_crop
    )
    mask = fromarray(np.pad(np.full((12, 20), 255, np.uint8), ((30, 28), (40, 41))))
    cropped = {"num_inference_steps": 3, "image": IMAGE, "mask_image": mask, "padding_mask_crop": 4}
    cropped |= {"num_images_per_prompt": 2, "max_sequence_length": 20}
    given = ours["onnxruntime"](TWO[:1], **cropped, seed=0).images
    generator = torch.Generator().manual_seed(0)
    expected = inpaint(prompt=TWO[:1], **cropped, generator=generator, text_encoder_out_layers=LAYERS).images
    assert len(given) == len(expected) == 2
    for one, other in zip(given, expected, strict=True):
        assert one.size == other.size == IMAGE.size
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_references_that_see_themselves_alone_are_those_of_a_cache(exported, system_checkpoint, target):
    """diffusers computes keys and values of references in the first step, and keeps them."""
    name = "Flux2KleinKVPipeline"
    folder = system_checkpoint("flux-2-klein-kv-short", lambda folder: make_klein(folder, name, layers=3))
    pipeline, reference = load(exported(folder, target=target), target=target), open_theirs(folder, name)
    assert pipeline.family.defaults["editing"]["num_inference_steps"] == 4
    for case in ({}, {"image": OTHER}, {"prompt": TWO, "image": [OTHER, BAND], "num_images_per_prompt": 2}):
        compare(pipeline, reference, **case)
    with pytest.raises(InputError, match="guidance_scale: got 3, expected none: this checkpoint is not guided by it"):
        pipeline.start("a cat", guidance_scale=3.0)
    with pytest.raises(InputError, match="negative_prompt: got one, expected none: this checkpoint is distilled, and"):
        pipeline.start("a cat", negative_prompt="blue")


def test_a_distilled_transformer_is_never_guided(ours, theirs, monkeypatch):
    pipeline = ours["onnxruntime"]
    monkeypatch.setattr(pipeline.family, "distilled", True)
    compare(pipeline, diffusers.Flux2KleinPipeline(**theirs.components, is_distilled=True), guidance_scale=4.0)
    settings = {"prompt": "a cat", "guidance_scale": 4.0}
    words = "--guidance-scale and --negative-prompt have no effect, because this checkpoint is distilled"
    assert prompt_notes(pipeline, settings) == prompt_notes(pipeline, {"negative_prompt": "a dog"}) == [words]
    monkeypatch.setattr(pipeline.family, "distilled", False)
    assert prompt_notes(pipeline, settings) == []


def test_the_shift_follows_tokens_and_steps():
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    for tokens in (16, 1024, 4096, 4300, 4301, 8192):
        for steps in (1, 4, 50, 300):
            assert math.isclose(empirical_mu(tokens, steps), compute_empirical_mu(tokens, steps), rel_tol=1e-12)


def test_embeddings_latents_and_results(ours, theirs):
    """Latents to start from have diffusers' shape, and those of a result too: the VAE's own."""
    pipeline = ours["onnxruntime"]
    encode = {"max_sequence_length": 9, "text_encoder_out_layers": LAYERS}
    states, negative = (theirs.encode_prompt(text, **encode)[0].detach() for text in ("a cat", "a dog"))
    latents = torch.randn((1, 4 * LATENTS, 4, 6), generator=torch.Generator().manual_seed(1))
    names = {"prompt_embeds": states, "negative_prompt_embeds": negative, "latents": latents}
    arguments = {"height": 16, "width": 24, "num_inference_steps": 2, "output_type": "latent"}
    given = pipeline(**arguments, **{name: tensor.numpy() for name, tensor in names.items()}).images
    expected = theirs(**arguments, **names).images
    assert given.shape == expected.shape == (1, LATENTS, 8, 12)
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4)


def test_defaults_are_diffusers(ours):
    pipeline = ours["onnxruntime"]
    assert pipeline.default_size == (256, 256), "64 tokens, each of 4 pixels"
    for kind, task in ((KLEIN, "editing"), ("Flux2KleinInpaintPipeline", "reference_inpainting")):
        defaults = pipeline.family.defaults[task]
        for argument, parameter in inspect.signature(getattr(diffusers, kind).__call__).parameters.items():
            own = pipeline.family.Inputs.__dataclass_fields__.get(argument)
            if own is not None:
                assert own.default == parameter.default, argument
            elif argument in defaults:
                assert defaults[argument] == parameter.default, argument
    assert pipeline("a " * 600, num_inference_steps=1, height=16, width=16, guidance_scale=1.0).truncated[0]


STATES = np.zeros((1, 9, 3 * WIDTH), np.float32)
ERRORS = {
    "tokens": ({"max_sequence_length": 513}, "max_sequence_length: got 513, expected .* at least 1 and at most 512"),
    "a size": ({"height": 18}, "height: got 18, expected a multiple of 4"),
    "no images": ({"image": []}, "image: got an empty list, expected at least one image"),
    "an array": ({"image": np.zeros((64, 64, 3))}, "image: got ndarray, expected a PIL image, or a list of PIL images"),
    "small": ({"image": noise(60, 64)}, "image: got 64 x 60 pixels, expected at least 64 to a side"),
    "narrow": ({"image": noise(64, 600)}, "image: got 600 x 64 pixels, expected a long side of at most 8 short ones"),
    "a strength": ({"image": OTHER, "strength": 0.5}, "strength: editing images has no such argument; pass image and"),
    "another mask": (
        {"image": OTHER, "mask_image": MASK},
        "mask_image: got 101 x 70 pixels, expected the image's 80 x 64",
    ),
    "another mask for latents": (
        {"image": np.zeros((1, 4 * LATENTS, 3, 5), np.float32), "mask_image": MASK},
        "mask_image: got 101 x 70 pixels, expected the image's 20 x 12",
    ),
    "another size": (
        {"image": IMAGE, "mask_image": MASK}, "height: got 16, expected 68, that of the image; resize the image instead"
    ),
    "a large array": (
        {"image": np.zeros((1032, 1024, 3), np.float32), "mask_image": np.zeros((1032, 1024), np.float32)},
        "image: got 1024 x 1032 pixels, expected at most 1048576 in all of an array; pass a PIL image",
    ),
    "a small reference": (
        {"image": OTHER, "mask_image": MASK.resize(OTHER.size), "image_reference": noise(2, 64), "height": None,
         "width": None}, "image_reference: got 64 x 2 pixels, expected at least 4 to a side",
    ),
}  # fmt: skip


def test_wrong_arguments_are_refused(ours, monkeypatch):
    pipeline = ours["onnxruntime"]
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            pipeline.start(**{"prompt": "a cat", **FEW, **arguments})
    for limit, words in ((0, "was made for prompts alone; leave it out"), (7, "image: got 320 tokens .*, expected 7")):
        monkeypatch.setattr(type(pipeline.denoiser), "reference_limit", limit)
        with pytest.raises(InputError, match=words):
            pipeline.start("a cat", **FEW, image=OTHER)
    monkeypatch.setattr(type(pipeline.denoiser), "token_limit", 512)
    with pytest.raises(InputError, match=r"max_sequence_length: got 20 tokens, expected 512: the engine of 'transf"):
        pipeline.start("a cat", **FEW)
    with pytest.raises(InputError, match=r"prompt_embeds: got 9 tokens, expected 512"):
        pipeline.start(None, prompt_embeds=STATES)


CONFIGS = {
    "in_channels": (32, "expected 16, 2 x 2 times the latent_channels of the VAE"),
    "out_channels": (32, "expected 16, the in_channels"),
    "patch_size": (2, "expected 1"),
    "joint_attention_dim": (32, "expected 48, 3 times the hidden_size of the text encoder"),
    "axes_dims_rope": ([4, 6, 8], "expected four even numbers that add up to 16"),
    "rope_theta": (0, "expected a number from 1 to"),
}


def test_configs_that_are_refused(folder):
    names = ("text_encoder", "transformer", "vae")
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in names}
    describe = flux2_transformer(512, 3, guided=False).describe
    assert describe(configs).usual == {"sequence": 512, "height": 256, "width": 256, "reference": 0}
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"transformer/config.json: field '{field}': got .*, {words}"):
            describe({**configs, "transformer": {**configs["transformer"], field: value}})


def test_generate(ours, tmp_path):
    pipeline = ours["onnxruntime"]
    for index, image in enumerate((OTHER, BAND)):
        image.save(tmp_path / f"{index}.png")
    told = CliRunner().invoke(
        generate,
        [str(pipeline.session.bundle.root), "a cat", "--steps=2", "--seed=3", "--height=16", "--width=24",
         "--max-sequence-length=20", f"--image={tmp_path}/0.png", f"--image={tmp_path}/1.png", "--target=onnxruntime",
         f"-o{tmp_path}/out.png"],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    (image,) = pipeline("a cat", seed=3, image=[OTHER, BAND], **{**FEW, "num_inference_steps": 2}).images
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))

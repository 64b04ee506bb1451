"""VQ-Diffusion against diffusers: the codes after every step, guidance, truncation, errors."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import VQDiffusionPipeline
from PIL import Image
from small_bundle import seal
from system_pair import compare_system
from times_ahead import check_times_ahead
from tiny_vq_diffusion import CODES, STEPS, make_vq_diffusion, open_vq_diffusion

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.schedulers import command as schedulers
from diffoundry.runtime.errors import BundleError, ConfigError, InputError, UnknownArgumentError
from diffoundry.runtime.pipelines.systems.vq_diffusion import truncate

pytestmark = pytest.mark.slow

NAME = "VQDiffusionPipeline"
CAT = "The cat, unaffable"


@pytest.fixture(scope="module", params=[True, False], ids=["learned", "empty prompt"])
def learnable(request):
    return request.param


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Bundle and diffusers' pipeline, by whether the rows of no prompt are learned."""

    def open_both(*, learnable=True):
        folder = system_checkpoint(f"{NAME}-{learnable}", partial(make_vq_diffusion, learnable=learnable))
        return exported(folder, target="onnxruntime,openvino"), open_vq_diffusion(folder)

    return open_both


@pytest.fixture
def ours(pair):
    return load(pair()[0])


CASES = {
    "guidance": (CAT, {}),
    "batch, several images": ([CAT, "an apple"], {"num_images_per_prompt": 2}),
    "long, without its end token": ("a very long apple " * 30, {}),
    "no guidance": (["", CAT], {"guidance_scale": 1.0}),
    "truncation": (CAT, {"truncation_rate": 0.5, "num_images_per_prompt": 2}),
    "the most likely alone": (CAT, {"truncation_rate": 0.0, "guidance_scale": 2.0}),
    "fewer steps": (CAT, {"num_inference_steps": 3}),
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_code_is_diffusers(pair, learnable, target):
    bundle, theirs = pair(learnable=learnable)
    ours = load(bundle, target=target)
    images = []
    for prompt, arguments in CASES.values():
        images.append(compare_system(ours, theirs, prompt=prompt, **{"num_inference_steps": STEPS, **arguments}))
    assert images[0].shape == (1, 8, 8, 3)
    assert images[1].shape == (4, 8, 8, 3)
    assert np.abs(images[1][0] - images[1][1]).max() > 1e-2


def test_codes_start_masked_and_end_without_a_mask(ours):
    run = ours.start(CAT, seed=0, num_inference_steps=STEPS, output_type="latent")
    codes = []
    for step in run:
        codes.append(step.latents)
        assert run.preview()[0].size == (8, 8)
    check_times_ahead(ours, CAT, num_inference_steps=STEPS)
    assert codes[0].dtype == np.int64
    assert (codes[0] == CODES).any()
    assert codes[-1].max() < CODES
    np.testing.assert_array_equal(run.finish().images, codes[-1])


def test_own_codes_and_seeds_of_each_image(pair, ours):
    _, theirs = pair()
    codes = np.random.default_rng(0).integers(0, CODES + 1, (1, 16))
    own = {"ours_only": {"latents": codes}, "theirs_only": {"latents": torch.from_numpy(codes)}}
    compare_system(ours, theirs, prompt=CAT, num_inference_steps=STEPS, **own)
    options = {"num_inference_steps": STEPS, "output_type": "latent"}
    both = ours(CAT, num_images_per_prompt=2, seed=[3, 4], **options).images
    np.testing.assert_array_equal(both[1:], ours(CAT, seed=4, **options).images)
    assert (both[0] != both[1]).any()


def test_callbacks_see_and_change_codes(ours):
    def zero(_pipe, _index, _timestep, tensors):
        return {"latents": tensors["latents"] * 0}

    options = {"num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    assert not ours(CAT, callback_on_step_end=zero, **options).images.any()
    for change, words in (
        (lambda codes: codes * 0.5, r"it returned 'latents' of ndarray, expected whole numbers \(1, 16\)"),
        (lambda codes: codes * 0 - 1, "callback_on_step_end: latents: got codes from -1 to -1, expected 0 to 12, the"),
    ):
        with pytest.raises(InputError, match=words):
            ours(CAT, callback_on_step_end=lambda _p, _i, _t, one, c=change: {"latents": c(one["latents"])}, **options)


def test_truncation_is_diffusers():
    values = torch.randn(2, 40, 9, generator=torch.Generator().manual_seed(0)).mul(3).log_softmax(1)
    for rate in (0.0, 0.3, 0.86, 1.0):
        expected = VQDiffusionPipeline.truncate(None, values, rate).numpy()
        np.testing.assert_array_equal(truncate(values.numpy(), rate), expected)


def test_cut_prompts_are_reported(ours):
    result = ours([CAT, "apple " * 90], num_inference_steps=1, seed=0)
    assert result.truncated[0] == ""
    assert result.truncated[1].startswith("apple apple")


ERRORS = (
    ({"prompt": None}, "prompt: got none, expected a text"),
    ({"prompt": []}, r"prompt: got \[\], expected a string or a list of at least one"),
    ({"prompt": "a \udcff"}, "prompt 0: got half of a surrogate pair at character 2"),
    ({"negative_prompt": "dog"}, "negative_prompt: got 'dog', expected none: this checkpoint is guided away from what"),
    ({"guidance_scale": -1.0}, "guidance_scale: got -1.0, expected a number of at least 0"),
    ({"truncation_rate": 1.5}, "truncation_rate: got 1.5"),
    ({"num_inference_steps": 7}, "num_inference_steps: got 7, expected at most 6: the transformer has no embedding of"),
    (
        {"latents": np.zeros((1, 8), np.int64)},
        r"latents: got shape \(1, 8\), expected \(1, 16\): the codes of each",
    ),
    (
        {"latents": np.zeros((1, 16), np.float32)},
        r"latents: got float32 \(1, 16\), expected a NumPy array of whole num",
    ),
    ({"latents": np.full((1, 16), 13)}, "latents: got codes from 13 to 13, expected 0 to 12, the mask"),
    ({"height": 64}, "height"),
    ({"eta": 0.5}, "eta"),
    ({"scheduler": "DDIMScheduler"}, "scheduler: got DDIMScheduler, expected VQDiffusionScheduler"),
)


def test_wrong_arguments_are_refused(ours):
    for arguments, words in ERRORS:
        with pytest.raises((InputError, UnknownArgumentError), match=words):
            ours(**{"prompt": CAT, "num_inference_steps": 2, **arguments})
    with pytest.raises(InputError, match="num_inference_steps: got 7, expected at most 6"):
        ours.setting_arguments(7, 5.0)  # those of a verification, before PyTorch fails


def test_the_command_line(ours, tmp_path, capsys):
    bundle, out = str(ours.session.bundle.root), tmp_path / "a.png"
    options = ["--seed", "0", "--steps", "3", "--truncation-rate", "0.8", "-o", str(out)]
    generate.main([bundle, "a cat", *options], standalone_mode=False)
    with Image.open(out) as image:
        assert image.size == (8, 8)
    with pytest.raises(InputError, match="--truncation-rate: got 2.0"):
        generate.main([bundle, "a cat", "--truncation-rate", "2"], standalone_mode=False)
    capsys.readouterr()
    schedulers.main([bundle, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["default"] == "VQDiffusionScheduler"


def test_parts_that_differ_in_their_codes_are_refused(ours, tmp_path):
    bundle = shutil.copytree(ours.session.bundle.root, tmp_path / "own.bundle")
    path = bundle / "scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_vec_classes": 9}))
    seal(bundle, "scheduler/scheduler_config.json")
    with pytest.raises(BundleError, match="got a transformer of 13 codes with the mask, a scheduler of 9, and a VQMod"):
        load(bundle)
    folder = tmp_path / "checkpoint"
    make_vq_diffusion(folder)
    for file, field, value, words in (
        ("transformer", "norm_type", "ada_norm_single", "field 'norm_type': got 'ada_norm_single', expected layer_nor"),
        ("learned_classifier_free_sampling_embeddings", "hidden_size", 16, "got 16, expected 32, that of the text enc"),
        (
            "transformer",
            "only_cross_attention",
            True,
            "'only_cross_attention': got true, expected false: the sec",
        ),
        ("transformer", "num_vector_embeds", None, "field 'num_vector_embeds': got (None|null), expected a whole num"),
    ):
        path = folder / file / "config.json"
        config = path.read_text()
        path.write_text(json.dumps({**json.loads(config), field: value}))
        with pytest.raises(ConfigError, match=words):
            open_checkpoint(str(folder))
        path.write_text(config)

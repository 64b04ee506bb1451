"""Systems with loops of their own over pixels, after every step: ScoreSdeVe, KarrasVe and RePaint."""

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_checkpoints import CHECKPOINTS
from system_pair import compare_system, open_theirs
from times_ahead import check_times_ahead

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

NAMES = {"ScoreSdeVePipeline": "score-sde-ve", "KarrasVePipeline": "karras-ve", "RePaintPipeline": "repaint"}
"""Pipeline class to its checkpoint."""


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Our pipeline and diffusers', by the class."""

    def open_both(name):
        folder = system_checkpoint(NAMES[name], CHECKPOINTS[NAMES[name]])
        return load(exported(folder)), open_theirs(folder, name)

    return open_both


def test_score_sde_corrects_and_predicts_as_diffusers(pair):
    ours, theirs = pair("ScoreSdeVePipeline")
    for arguments in ({"num_inference_steps": 3}, {"num_inference_steps": 2, "batch_size": 2}):
        images = compare_system(ours, theirs, **arguments)
        assert images.std() > 0.01


def test_the_image_of_score_sde_is_the_mean_of_the_last_step(pair):
    ours, _ = pair("ScoreSdeVePipeline")
    run = ours.start(seed=0, num_inference_steps=2, output_type="latent")
    steps = list(run)
    assert [step.result is None for step in steps] == [True, True, False] * 2
    assert run.total == 6
    mean = run.finish().images
    assert mean is steps[-1].result
    assert not np.array_equal(mean, steps[-1].latents)
    image = ours(seed=0, num_inference_steps=2, output_type="np").images
    np.testing.assert_allclose(image[0], np.clip(mean[0], 0, 1).transpose(1, 2, 0), atol=1e-6)
    changed = ours(
        seed=0, num_inference_steps=2, output_type="latent",
        callback_on_step_end=lambda pipe, index, timestep, tensors: {"latents": tensors["latents"] * 0},
    ).images  # fmt: skip
    check_times_ahead(ours, num_inference_steps=3)
    assert not changed.any(), "a changed sample is the result itself"


def test_karras_ve_corrects_each_step_as_diffusers(pair):
    ours, theirs = pair("KarrasVePipeline")
    for arguments in ({"num_inference_steps": 3}, {"num_inference_steps": 2, "batch_size": 2}):
        images = compare_system(ours, theirs, **arguments)
        assert images.std() > 0.05
    assert ours.start(num_inference_steps=5).total == 9
    check_times_ahead(ours, num_inference_steps=3)


def picture(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def known(size=(32, 32)):
    mask = np.full((size[1], size[0]), 255, np.uint8)
    mask[8:20, 4:30] = 100
    return Image.fromarray(mask)


JUMPS = {"num_inference_steps": 6, "jump_length": 2, "jump_n_sample": 2}


def test_repaint_is_diffusers(pair):
    ours, theirs = pair("RePaintPipeline")
    for arguments in (
        {"image": picture(0), "mask_image": known(), "eta": 0.4},
        {"image": picture(1, (75, 40)), "mask_image": known((72, 40))},  # cut to 72 x 40: no tensors, other sizes
    ):
        if arguments["image"].size == (75, 40):
            image = np.asarray(arguments["image"].resize((72, 40), Image.Resampling.LANCZOS), np.float32) / 255
            mask = (np.asarray(arguments["mask_image"], np.float32) >= 128).astype(np.float32)
            tensors = {
                "image": torch.from_numpy(image.transpose(2, 0, 1)[None] * 2 - 1),
                "mask_image": torch.from_numpy(mask[None, None]),
            }
            compare_system(ours, theirs, ours_only=arguments, theirs_only=tensors, **JUMPS)
        else:
            images = compare_system(ours, theirs, **arguments, **JUMPS)
            kept = np.asarray(arguments["image"], np.float32)[:8] / 255
            np.testing.assert_allclose(images[0][:8], kept, atol=0.01)


def test_repaint_takes_batches_and_soft_masks_as_diffusers(pair):
    ours, theirs = pair("RePaintPipeline")
    generator = np.random.default_rng(0)
    image = generator.random((2, 32, 32, 3)).astype(np.float32)
    mask = generator.random((1, 32, 32)).astype(np.float32)
    compare_system(
        ours,
        theirs,
        ours_only={"image": image, "mask_image": mask},
        theirs_only={
            "image": torch.from_numpy(image.transpose(0, 3, 1, 2) * 2 - 1),
            "mask_image": torch.from_numpy(mask[:, None]).expand(2, 1, 32, 32),
        },
        num_inference_steps=3,
        jump_length=1,
        jump_n_sample=2,
    )
    # Several generators: each draws its image's start, the first one the noise of all steps.
    expected = theirs(
        torch.from_numpy(image.transpose(0, 3, 1, 2) * 2 - 1),
        torch.from_numpy(mask[:, None]).expand(2, 1, 32, 32),
        num_inference_steps=3,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="np",
    ).images
    found = ours(image=image, mask_image=mask, num_inference_steps=3, seed=[5, 6], output_type="np").images
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_one_image_counts_for_a_whole_batch(pair):
    ours, _ = pair("RePaintPipeline")
    images = ours(image=picture(0), mask_image=known(), batch_size=3, seed=1, output_type="np", **JUMPS).images
    assert images.shape == (3, 32, 32, 3)
    assert np.abs(images[0] - images[1]).max() > 0.01
    check_times_ahead(ours, image=picture(0), mask_image=known(), **JUMPS)
    assert ours.default_size == (32, 32)
    assert ours.setting_arguments(3, 1.0) == {"num_inference_steps": 3, "jump_length": 1, "jump_n_sample": 2}


IMAGE = {"image": picture(0), "mask_image": known()}
ERRORS = {
    "no image": ("RePaintPipeline", {}, "image: got none, expected the image with the known part"),
    "no mask": ("RePaintPipeline", {"image": picture(0)}, "mask_image: got none, expected a mask, white where"),
    "eta": ("RePaintPipeline", {**IMAGE, "eta": 2.0}, "eta: got 2.0"),
    "a jump": ("RePaintPipeline", {**IMAGE, "jump_length": 0}, "jump_length: got 0, expected a whole number of at"),
    "times": ("RePaintPipeline", {**IMAGE, "jump_n_sample": 1.5}, "jump_n_sample: got 1.5"),
    "images": ("RePaintPipeline", {**IMAGE, "image": [picture(0)] * 2, "batch_size": 3}, "image: got 2 of them, exp"),
    "masks": ("RePaintPipeline", {**IMAGE, "mask_image": [known()] * 2}, "mask_image: got 2 of them, expected one"),
    "no masks": ("RePaintPipeline", {**IMAGE, "mask_image": []}, "mask_image: got an empty list"),
    "values of diffusers' tensors": ("RePaintPipeline", {**IMAGE, "image": -np.ones((8, 8, 3), np.float32)}, "0 to 1"),
    "another scheduler": ("RePaintPipeline", {**IMAGE, "scheduler": "ddim"}, "scheduler: got DDIMScheduler, expected"),
    "one level": ("KarrasVePipeline", {"num_inference_steps": 1}, "num_inference_steps is 1, expected at least 2"),
    "a scheduler for Karras": ("KarrasVePipeline", {"scheduler": "pndm"}, "got PNDMScheduler, expected Karr"),
    "a scheduler": ("ScoreSdeVePipeline", {"scheduler": "ddim"}, "scheduler: got DDIMScheduler, expected ScoreSdeVeS"),
    "a prompt": ("ScoreSdeVePipeline", {"prompt": "a cat"}, "prompt: got 'a cat', expected none: unconditional images"),
    "labels": ("KarrasVePipeline", {"class_labels": 1}, "class_labels"),
}  # fmt: skip


def test_wrong_arguments_are_refused(pair):
    for name, arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            pair(name)[0](**arguments)


def test_loops_of_their_own_are_cancelled_and_interrupted(pair):
    for name in NAMES:
        ours, _ = pair(name)
        arguments = {"num_inference_steps": 4, "seed": 0, **(IMAGE if name == "RePaintPipeline" else {})}
        run = ours.start(**arguments)
        next(iter(run))
        run.cancel()
        with pytest.raises(Exception, match="cancelled after 1 of"):
            run.finish()
        seen = []

        def interrupt(pipe, index, timestep, tensors, seen=seen):
            seen.append(index)
            pipe._interrupt = True
            return {}

        assert ours(callback_on_step_end=interrupt, **arguments).images
        assert seen == [0], name


def test_classes_are_refused_where_a_call_has_no_labels(system_checkpoint):
    from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
    from diffoundry.exporter.checkpoints.rehearse import rehearse
    from diffoundry.runtime.bundle.specs import Recipe
    from diffoundry.runtime.errors import CheckpointError

    checkpoint = open_checkpoint(str(system_checkpoint("ddpm-classes", CHECKPOINTS["ddpm-classes"])))
    with pytest.raises(CheckpointError, match="takes class labels, expected one without: a DDPMPipeline passes none"):
        rehearse(checkpoint, Recipe(model="x", source={}, variants=(), dims={}, opset=20))

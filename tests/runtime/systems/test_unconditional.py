"""DDPM, DDIM and PNDM against diffusers, after every step."""

import diffusers
import numpy as np
import pytest
from system_pair import compare_system, open_theirs

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError, UnknownArgumentError


def tiny_unet(sample_size=(8, 12)):
    return diffusers.UNet2DModel(
        sample_size=sample_size,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )


CHECKPOINTS = {
    "DDPMPipeline": (diffusers.DDPMScheduler, (8, 12)),
    "DDIMPipeline": (diffusers.DDPMScheduler, 8),  # the class makes a DDIM scheduler of it
    "PNDMPipeline": (diffusers.PNDMScheduler, 8),
}


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Our pipeline and diffusers', by the class."""

    def open_both(name, target="onnxruntime"):
        scheduler, size = CHECKPOINTS[name]

        def make(folder):
            getattr(diffusers, name)(unet=tiny_unet(size), scheduler=scheduler()).save_pretrained(folder)

        folder = system_checkpoint(name, make)
        bundle = exported(folder, target="onnxruntime,openvino")
        return load(bundle, target=target), open_theirs(folder, name)

    return open_both


CASES = {
    "DDPM": ("DDPMPipeline", {"batch_size": 2}),
    "DDIM": ("DDIMPipeline", {}),
    "eta": ("DDIMPipeline", {"eta": 0.7, "batch_size": 2}),
    "clipped": ("DDIMPipeline", {"use_clipped_model_output": True, "eta": 0.3}),
    "PNDM": ("PNDMPipeline", {"batch_size": 2}),
}


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pair, target):
    for case, (name, arguments) in CASES.items():
        ours, theirs = pair(name, target)
        images = compare_system(ours, theirs, num_inference_steps=4, **arguments)
        assert images.shape[0] == arguments.get("batch_size", 1), case
        assert images.std() > 0.05, case


def test_seeds_of_a_batch_are_those_of_single_images(pair):
    ours, _ = pair("DDPMPipeline")
    both = ours(batch_size=2, seed=[3, 4], num_inference_steps=3, output_type="np").images
    alone = ours(seed=4, num_inference_steps=3, output_type="np").images
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_a_run_has_previews_and_can_be_cancelled(pair):
    ours, _ = pair("DDPMPipeline")
    run = ours.start(num_inference_steps=3, seed=0)
    with pytest.raises(InputError, match="preview: got step 0 of 3"):
        run.preview()
    next(iter(run))
    assert run.preview()[0].size == (12, 8)
    assert ours.default_size == (8, 12)
    run.cancel()
    with pytest.raises(Exception, match="cancelled after 1 of 3 steps"):
        run.finish()


def test_callbacks_see_and_change_the_sample(pair):
    ours, _ = pair("DDPMPipeline")
    seen = []

    def halve(pipe, index, timestep, tensors):
        assert pipe is ours
        seen.append((index, timestep))
        return {"latents": tensors["latents"] * 0}

    latents = ours(num_inference_steps=2, seed=0, callback_on_step_end=halve, output_type="latent").images
    assert [index for index, _ in seen] == [0, 1]
    assert not latents.any()


ERRORS = {
    "a prompt": ({"prompt": "a cat"}, "prompt: got 'a cat', expected none: unconditional images"),
    "guidance": ({"guidance_scale": 3.0}, "guidance_scale"),
    "no image": ({"batch_size": 0}, "batch_size: got 0, expected"),
    "eta": ({"eta": 2.0}, "eta: got 2.0"),
    "an eta without DDIM": ({"eta": 0.5}, "has no eta"),
    "clipping without DDIM": ({"use_clipped_model_output": True}, "use_clipped_model_output: DDPMScheduler has no"),
    "latents": ({"latents": np.zeros((1, 3, 8, 8), np.float32)}, r"latents: got shape \(1, 3, 8, 8\), expected"),
    "a number of images as with prompts": ({"num_images_per_prompt": 2}, "num_images_per_prompt"),
    "an output type": ({"output_type": "pt"}, "output_type: got 'pt'"),
    "two sources of noise": ({"seed": 0, "generator": np.random.default_rng()}, "seed and generator"),
}


def test_wrong_arguments_are_refused(pair):
    ours, _ = pair("DDPMPipeline")
    for arguments, words in ERRORS.values():
        with pytest.raises((InputError, UnknownArgumentError), match=words):
            ours(**{"num_inference_steps": 2, **arguments})

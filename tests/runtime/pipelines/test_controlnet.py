"""ControlNets beside diffusers' pipelines: the latents after every step, on tiny random checkpoints."""

import copy

import diffusers
import numpy as np
import pytest
import torch
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline
from safetensors.torch import save_file

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

PROMPT = "a red apple"
PAIR = ["a red apple", "an umbrella with rain drops"]

CLASSES = {
    "sd1": "StableDiffusionControlNet{}Pipeline",
    "xl": "StableDiffusionXLControlNet{}Pipeline",
}


def image(height=64, width=64, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mask(height=64, width=64):
    down, across = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.where((down > height // 3) & (across > width // 4), 255, 0).astype(np.uint8))


@pytest.fixture(scope="module")
def controlled(controlled_bundle, tiny_sd_checkpoint, tiny_controlnet):
    """Factory: our pipeline and diffusers', of a base checkpoint with one ControlNet or several."""
    ours, theirs = {}, {}

    def make(base="sd1", nets=("first",), kind=""):
        if (base, nets) not in ours:
            ours[base, nets] = load(controlled_bundle(base, nets))
        if (base, nets, kind) not in theirs:
            models = [diffusers.ControlNetModel.from_pretrained(tiny_controlnet(base, net)) for net in nets]
            theirs[base, nets, kind] = diffusers_pipeline(
                tiny_sd_checkpoint(base),
                CLASSES[base.removesuffix("-inpaint") if base != "inpaint" else "sd1"].format(kind),
                controlnet=models if len(models) > 1 else models[0],
            )
        return ours[base, nets], theirs[base, nets, kind]

    return make


class Renamed:
    """Our pipeline, taking the image for ControlNets under the name that diffusers' text to image gives it."""

    def __init__(self, pipe):
        self.pipe = pipe

    def start(self, prompt, image, **arguments):
        return self.pipe.start(prompt, control_image=image, **arguments)


def follow(pair, prompt=PROMPT, *, control, steps=3, **arguments):
    """`compare`, the image for ControlNets under the name that each side gives it."""
    ours, theirs = pair
    name = "control_image"
    if "image" not in arguments:
        ours, name = Renamed(ours), "image"
    return compare(ours, theirs, prompt, num_inference_steps=steps, **{name: control}, **arguments)


@pytest.mark.slow_cases("*-xl")
@pytest.mark.parametrize("base", ["sd1", "xl"])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="default"),
        pytest.param({"guess_mode": True, "negative_prompt": "blurry"}, id="guess"),
        pytest.param({"guess_mode": True, "guidance_scale": 1.0}, id="guess-unguided"),
        pytest.param(
            {"control_guidance_start": 0.3, "control_guidance_end": 0.9, "controlnet_conditioning_scale": 0.7},
            id="window",
        ),
    ],
)
def test_text_to_image(controlled, base, arguments):
    follow(controlled(base), control=image(), **arguments)


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_engine_takes_every_size(controlled, controlled_bundle, target):
    theirs = controlled()[1]
    ours = load(controlled_bundle(), target=target, precision="fp32")
    for size in ((64, 64), (72, 88), (128, 64)):
        follow((ours, theirs), control=image(*size), control_guidance_end=0.7)


def test_prompts_of_two_chunks(controlled):
    noise = np.random.default_rng(0)
    embeddings = {
        name: noise.standard_normal((1, 154, 32)).astype(np.float32)
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    follow(controlled(), None, control=image(), **embeddings)


@pytest.mark.slow_cases("xl")
@pytest.mark.parametrize("base", ["sd1", "xl"])
def test_odd_sizes_and_several_prompts(controlled, base):
    controls = [image(72, 88, seed) for seed in (1, 2)]
    follow(controlled(base), PAIR, control=controls, num_images_per_prompt=2, guess_mode=True)
    follow(controlled(base), PAIR, control=controls[0], num_images_per_prompt=2)


@pytest.mark.slow
def test_two_controlnets(controlled):
    """The second knows no places, and takes blue before red."""
    pair = controlled(nets=("first", "pooled"))
    controls = [image(seed=1), image(seed=2)]
    follow(
        pair,
        control=controls,
        controlnet_conditioning_scale=[0.8, 0.4],
        control_guidance_start=[0.0, 0.4],
        control_guidance_end=[0.6, 1.0],
    )
    follow(pair, control=controls, guess_mode=True, controlnet_conditioning_scale=0.6)
    nested = [controls, [image(seed=3), image(seed=4)]]
    follow(pair, PAIR, control=nested)


def test_one_that_knows_no_places_guesses_whatever_is_asked_for(controlled):
    """The second of two, alone."""
    ours, theirs = controlled(nets=("first", "pooled"))
    alone, parts, net = copy.copy(ours), copy.copy(ours.parts), copy.copy(ours.controlnets)
    net.names, net._models = net.names[1:], net._models[1:]
    parts.controlnets = net
    alone.parts = parts
    other = diffusers.StableDiffusionControlNetPipeline(
        **{**theirs.components, "controlnet": theirs.controlnet.nets[1]}, requires_safety_checker=False
    )
    other.set_progress_bar_config(disable=True)
    follow((alone, other), control=image(72, 88))


@pytest.mark.slow_cases("*-xl")
@pytest.mark.parametrize("base", ["sd1", "xl"])
@pytest.mark.parametrize("guess", [False, True])
def test_image_to_image(controlled, base, guess):
    follow(controlled(base, kind="Img2Img"), image=image(72, 64, 5), control=image(72, 64), guess_mode=guess)


@pytest.mark.slow_cases("*-xl")
@pytest.mark.parametrize("base", ["sd1", "xl"])
@pytest.mark.parametrize("arguments", [{}, {"strength": 0.7, "guess_mode": True}])
def test_inpainting(controlled, base, arguments):
    pair = controlled(base, kind="Inpaint")
    follow(pair, image=image(seed=5), mask_image=mask(), control=image(), **arguments)


def test_inpainting_a_part(controlled):
    """The image is larger than what is generated; what the ControlNet is shown lies over all of it."""
    follow(
        controlled(kind="Inpaint"),
        image=image(96, 80, 5),
        mask_image=mask(96, 80),
        control=image(96, 80),
        padding_mask_crop=8,
        height=64,
        width=64,
        output_type="pil",
    )


def test_an_old_scheduler_config_is_left_as_it_is(controlled, monkeypatch):
    """Without an image for the ControlNet the class is `StableDiffusionPipeline`, which corrects it."""
    ours, theirs = controlled()
    old = {**theirs.scheduler.config, "steps_offset": 0, "_class_name": "PNDMScheduler"}
    monkeypatch.setattr(ours, "scheduler_config", old)
    monkeypatch.setattr(theirs, "scheduler", diffusers.PNDMScheduler.from_config(old))
    follow((ours, theirs), control=image())
    parts = {name: part for name, part in theirs.components.items() if name != "controlnet"}
    plain = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    compare(ours, plain, PROMPT, num_inference_steps=3, height=64, width=64)


@pytest.mark.slow
def test_inpainting_with_nine_channels(controlled):
    follow(controlled("inpaint", kind="Inpaint"), image=image(seed=5), mask_image=mask(), control=image())


def test_arrays_are_images_too(controlled):
    pixels = np.random.default_rng(3).random((2, 64, 64, 3), dtype=np.float32)
    follow(controlled(), PAIR, control=pixels)


def test_arrays_and_tensors_of_any_floats_reach_the_controlnet_as_they_are(controlled):
    """As the ControlNet for inpainting takes them: -1 where the image is masked."""
    noise = 2 * np.random.default_rng(3).standard_normal((1, 64, 64, 3)).astype(np.float32)
    noise[:, 10:40, 20:] = -1
    tensor = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    follow(controlled(), control=noise)
    follow(controlled(), control=tensor, guess_mode=True, guidance_scale=5.0)
    follow(controlled(nets=("first", "pooled")), control=[tensor, noise], controlnet_conditioning_scale=[0.7, 1.2])


def generate(pipe, **arguments):
    return pipe(PROMPT, seed=0, num_inference_steps=3, output_type="latent", **arguments).images


def test_without_a_image_it_generates_as_without_controlnets(controlled, exported, tiny_sd_checkpoint):
    guided = generate(controlled()[0])
    plain = generate(load(exported(tiny_sd_checkpoint())))
    np.testing.assert_allclose(guided, plain, atol=1e-5)
    assert np.abs(guided - generate(controlled()[0], control_image=image())).max() > 0.05


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_calls_without_residuals_compute_what_zeros_give(controlled_bundle, target):
    pipe = load(controlled_bundle(), target=target, precision="fp32")
    assert_idle_inputs_are_zeros(pipe, {"control_image": image(), "control_guidance_end": 0.5}, height=64, width=64)


def test_a_controlnet_is_run_only_in_its_part_of_the_steps(controlled):
    pipe, calls = controlled(nets=("first", "pooled"))[0], []
    pipe.session.on_call = lambda name, *_: calls.append(name)
    try:
        generate(
            pipe,
            control_image=[image(), image()],
            control_guidance_start=[0.0, 0.3],
            control_guidance_end=[0.4, 1.0],
            controlnet_conditioning_scale=[1.0, 0.5],
        )
        loop = [name for name in calls if name.startswith(("unet", "controlnet"))]
        # PNDM makes four steps of three; in the second neither counts.
        assert loop == ["controlnet", "unet", "unet", "controlnet_1", "unet", "controlnet_1", "unet"]
        calls.clear()
        generate(pipe, control_image=[image(), image()], controlnet_conditioning_scale=0.0)
        assert not any(name.startswith("controlnet") for name in calls)
    finally:
        pipe.session.on_call = None


def test_low_memory_keeps_both_open_in_the_loop_and_nothing_else(controlled, controlled_bundle):
    pipe = load(controlled_bundle(), target="onnxruntime", precision="fp32", low_memory=True)
    got = generate(pipe, control_image=image())
    assert set(pipe.session._engines) == {"unet", "controlnet"}
    np.testing.assert_array_equal(got, generate(controlled()[0], control_image=image()))
    pipe.session.close()


def test_a_guess_asks_for_rows_of_the_prompt_alone(controlled):
    pipe, rows = controlled()[0], {}
    pipe.session.on_call = lambda name, feeds, *_: rows.__setitem__(name, len(next(iter(feeds.values()))))
    try:
        generate(pipe, control_image=image(), guess_mode=True)
    finally:
        pipe.session.on_call = None
    assert (rows["controlnet"], rows["unet"]) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control_image": image(72, 64), "height": 64}, "got 64 x 72 pixels, expected 64 x 64, the size that is"),
        ({"control_image": image(60, 64)}, "height: got 60, expected a multiple of 8"),
        ({"control_image": [image()] * 3}, "control_image: got 3 images for 1 prompts, expected one, or one for"),
        ({"control_image": "edges.png"}, "control_image: got str, expected a PIL image or an array of floats in 0..1"),
        (
            {"control_image": Image.new("RGBA", (64, 64), (0, 0, 0, 100))},
            "control_image: got an image with transparency, expected one without",
        ),
        (
            {"control_image": Image.new("I;16", (64, 64))},
            "control_image: got the PIL mode 'I;16', expected 8 bits a channel such as 'RGB'; scale and convert it",
        ),
        ({"control_image": np.zeros(5)}, r"control_image: got an array of shape \(5,\), expected \(height, width, 3\)"),
        ({"control_image": np.zeros((64, 64, 3), int)}, "control_image: got an array of int64, expected floats"),
        ({"guess_mode": True}, "guess_mode needs control_image, an image for every ControlNet"),
        (
            {"control_image": image(), "control_guidance_start": 0.5, "control_guidance_end": 0.5},
            "control_guidance_start and control_guidance_end: got 0.5 and 0.5, expected 0 <= start < end <= 1",
        ),
        (
            {"control_image": image(), "controlnet_conditioning_scale": [1.0, 0.5]},
            "controlnet_conditioning_scale: got 2 numbers, expected one, or 1: one for each ControlNet",
        ),
        (
            {"control_image": image(), "controlnet_conditioning_scale": float("nan")},
            "controlnet_conditioning_scale: got nan, expected a number",
        ),
        ({"control_image": image(), "guess_mode": "yes"}, "guess_mode: got 'yes', expected True or False"),
        (
            {
                "control_image": image(),
                "callback_on_step_end": print,
                "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
            },
            "callback_on_step_end_tensor_inputs: got 'prompt_embeds', expected a list of latents$",
        ),
        (
            {"control_image": image(), "image": image(72, 64)},
            "control_image: got 64 x 64 pixels, expected 64 x 72, the size that is generated; resize it before edges",
        ),
    ],
)
def test_what_does_not_fit_is_refused(controlled, arguments, message):
    with pytest.raises(InputError, match=message):
        generate(controlled()[0], **arguments)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (image(), "control_image: got 1, expected a list of 2: one for each ControlNet of this bundle"),
        ([[image()], [image()]], "control_image: got lists of 1 images, expected 2 in each"),
        ([image(), image(72, 64)], "control_image: got images of 64 x 64, 64 x 72 pixels, expected one size"),
    ],
)
def test_images_for_two_are_counted(controlled, control, message):
    with pytest.raises(InputError, match=message):
        generate(controlled(nets=("first", "pooled"))[0], control_image=control)


def test_bundles_and_tasks_without_controlnets_say_so(exported, tiny_sd_checkpoint, controlled):
    with pytest.raises(InputError, match="control_image: got one, but this bundle has no ControlNet; export it with"):
        generate(load(exported(tiny_sd_checkpoint())), control_image=image())
    pixels = np.zeros((64, 64, 3), np.float32)
    parts = {"image": image(), "mask_image": mask(), "padding_mask_crop": 8, "output_type": "pil"}
    with pytest.raises(InputError, match="control_image: got ndarray with padding_mask_crop, expected PIL images"):
        controlled()[0](PROMPT, control_image=pixels, num_inference_steps=1, **parts)


def test_a_lora_goes_with_it(controlled, tmp_path):
    """A tensor for the ControlNet itself is reported and does nothing."""
    pytest.importorskip("peft", reason="diffusers loads LoRAs with it")
    ours, theirs = controlled()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    generator = torch.Generator().manual_seed(0)
    factors = {
        "lora_A": torch.randn(4, 64, generator=generator),
        "lora_B": torch.randn(64, 4, generator=generator),
    }
    unet = {f"unet.{layer}.{name}.weight": tensor for name, tensor in factors.items()}
    own = {f"controlnet.{layer}.{name}.weight": tensor.clone() for name, tensor in factors.items()}
    save_file(unet, tmp_path / "unet.safetensors")
    save_file({**unet, **own}, tmp_path / "both.safetensors")
    theirs.load_lora_weights(str(tmp_path / "unet.safetensors"))
    before = generate(ours, control_image=image())
    try:
        report = ours.loras.load(tmp_path / "both.safetensors")
        assert set(report.unused) == set(own)
        assert report.layers == {"unet": 1}
        follow((ours, theirs), control=image())
        assert np.abs(generate(ours, control_image=image()) - before).max() > 1e-3
    finally:
        ours.loras.unload()
        theirs.unload_lora_weights()
    np.testing.assert_array_equal(generate(ours, control_image=image()), before)

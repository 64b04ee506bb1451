"""A diffusers user's first lines work, or answer with one sentence that names our way."""

import re
import subprocess
import sys
import threading
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from pipeline_harness import as_array, diffusers_pipeline

import diffoundry
from diffoundry.runtime import load
from diffoundry.runtime.errors import CancelledError, EngineError, InputError
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.schedulers import EulerDiscreteScheduler, Scheduler

FAST: dict[str, Any] = {"num_inference_steps": 2, "height": 16, "width": 16, "seed": 0, "output_type": "latent"}
SHAPE = (1, 4, 8, 8)


@pytest.fixture
def pipe(tiny):
    """The tiny pipeline, with the checkpoint's scheduler again afterwards."""
    yield tiny
    tiny.scheduler_config = tiny.scheduler_config


class Seeded(torch.Generator):
    """A generator of a class derived from torch's."""


def changed(**arguments):
    """FAST with other arguments; None leaves one out."""
    return {name: value for name, value in {**FAST, **arguments}.items() if value is not None}


def latents(pipe, **arguments):
    return pipe("a red apple", **changed(**arguments)).images


def test_generators_of_torch_give_the_image_of_diffusers(emoji, emoji_folder):
    """The state counts, not the seed; both libraries leave it at the same place, so that the next image follows."""
    theirs = diffusers_pipeline(emoji_folder)
    theirs.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(theirs.scheduler.config)
    ours, expected = (torch.Generator().manual_seed(5) for _ in range(2))
    for generator in (ours, expected):
        torch.randn(7, generator=generator)
    arguments = {"num_inference_steps": 3, "output_type": "np"}
    for _ in range(2):
        got = emoji("a fish", generator=ours, scheduler="euler_a", **arguments)
        wanted = theirs("a fish", generator=expected, **arguments)
        np.testing.assert_allclose(got.images, wanted.images, atol=2e-3)
        assert got.seed is None
        assert torch.equal(ours.get_state(), expected.get_state())
    for ours in (Seeded().manual_seed(6), [Seeded().manual_seed(6)]):
        np.testing.assert_array_equal(
            emoji("a fish", generator=ours, **arguments).images, emoji("a fish", seed=6, **arguments).images
        )
    lists = [[torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2)]
    got = emoji(["a fish", "a cat"], generator=lists[0], scheduler="euler_a", **arguments)
    np.testing.assert_allclose(
        got.images, theirs(["a fish", "a cat"], generator=lists[1], **arguments).images, atol=2e-3
    )


def test_the_scheduler_is_a_property_with_a_setter(emoji_folder, emoji_bundle):
    ours, theirs = load(emoji_bundle), diffusers_pipeline(emoji_folder)
    ours.scheduler = EulerDiscreteScheduler.from_config(ours.scheduler.config, use_karras_sigmas=True)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(theirs.scheduler.config, use_karras_sigmas=True)
    assert ours.scheduler.config["use_karras_sigmas"]
    arguments = {"num_inference_steps": 3, "output_type": "np"}
    wanted = theirs("a fish", generator=torch.Generator().manual_seed(1), **arguments).images
    np.testing.assert_allclose(ours("a fish", seed=1, **arguments).images, wanted, atol=2e-3)
    assert ours.scheduler.num_inference_steps is None  # a call works on a copy


def test_schedulers_by_name_class_and_instance(pipe):
    config = pipe.scheduler.config
    steps = {"num_inference_steps": 4}
    expected = latents(pipe, scheduler="EulerDiscrete", **steps)
    karras = latents(pipe, scheduler=EulerDiscreteScheduler.from_config(config, use_karras_sigmas=True), **steps)
    assert np.abs(karras - expected).max() > 1e-3
    theirs = diffusers.EulerDiscreteScheduler.from_config(dict(config), use_karras_sigmas=True)
    for scheduler, wanted in (
        ("euler", expected),
        ("Euler", expected),
        (EulerDiscreteScheduler, expected),
        (diffusers.EulerDiscreteScheduler, expected),
        (EulerDiscreteScheduler.from_config(config), expected),
        ("euler_karras", karras),
        (theirs, karras),
    ):
        np.testing.assert_array_equal(latents(pipe, scheduler=scheduler, **steps), wanted)
        pipe.scheduler = scheduler
        np.testing.assert_array_equal(latents(pipe, **steps), wanted)
        pipe.scheduler_config = pipe.scheduler_config
    with pytest.raises(InputError, match=r"scheduler: got 'eulr'\. Did you mean 'euler'\?"):
        pipe.scheduler = "eulr"


def test_the_result_is_a_tuple_too(pipe):
    result = pipe("a red apple", **FAST)
    assert result[0] is result["images"] is result.images
    assert result["seed"] == 0
    assert result.to_tuple() == (result.images,)
    with pytest.raises(KeyError, match="the result has images, seed, truncated, nsfw_content_detected"):
        result["image"]
    images, flags = pipe("a red apple", **FAST, return_dict=False)
    np.testing.assert_array_equal(images, result.images)
    assert flags is None
    np.testing.assert_array_equal(pipe("a red apple", **FAST, return_dict=False)[0], result[0])
    assert repr(result) == f"PipelineOutput(images=float32 {SHAPE}, seed=0)"
    assert repr(pipe("a red apple", **changed(output_type="pil"))) == "PipelineOutput(images=[RGB 16x16], seed=0)"


def test_something_to_look_at(pipe):
    text = repr(pipe)
    for part in (
        "StableDiffusionPipeline",
        "text_to_image | image_to_image | inpainting",
        "DDIMScheduler",
        "open engines",
    ):
        assert part in text
    run = pipe.start("a red apple", **FAST)
    step = next(iter(run))
    assert repr(step) == "Step(index=0, total=2, timestep=501.0)"
    assert repr(run) == "Run(1 of 2 steps, seed=0, DDIMScheduler)"
    assert "load" in dir(diffoundry.runtime)
    assert {"load", "DiffusionPipeline", "EngineOptions"} <= set(dir(diffoundry))
    assert "plugins" not in dir(diffoundry.runtime)
    assert {"EulerDiscreteScheduler", "resolve_scheduler"} <= set(dir(diffoundry.runtime.schedulers))
    with pytest.raises(
        AttributeError, match="module 'diffoundry.runtime' has no attribute 'lod'. Did you mean 'load'?"
    ):
        diffoundry.runtime.lod  # noqa: B018


def test_a_run_is_cancelled_and_a_left_loop_is_not_finished_silently(pipe):
    run = pipe.start("a red apple", **changed(num_inference_steps=5))
    for step in run:
        if step.index == 1:
            break
    with pytest.raises(InputError, match="finish: the loop over the steps was left after 2 of 5; iterate over the run"):
        run.finish()
    assert [step.index for step in run] == [2, 3, 4]
    np.testing.assert_array_equal(run.finish().images, latents(pipe, num_inference_steps=5))
    run = pipe.start("a red apple", **changed(num_inference_steps=5))
    seen = []
    for step in run:
        seen.append(step.index)
        threading.Thread(target=run.cancel).start() if step.index == 1 else None
        while step.index == 1 and not run.signal.cancelled:
            pass
    assert seen == [0, 1]
    with pytest.raises(CancelledError, match="the run was cancelled after 2 of 5 steps; start it again"):
        run.finish()


def test_interrupt_is_honoured_as_in_diffusers(emoji, emoji_folder):
    """The latents after the step are decoded; another run of the same pipeline goes on."""
    theirs, counts = diffusers_pipeline(emoji_folder), []

    def stop(pipe, index, timestep, values):
        counts.append(index)
        pipe._interrupt = index == 1
        return values

    arguments = {"num_inference_steps": 5, "output_type": "np"}
    other = emoji.start("a fish", seed=2, num_inference_steps=2)
    next(iter(other))
    got = emoji("a fish", seed=1, callback_on_step_end=stop, **arguments).images
    assert counts == [0, 1]
    wanted = theirs("a fish", generator=torch.Generator().manual_seed(1), callback_on_step_end=stop, **arguments).images
    np.testing.assert_allclose(got, as_array(wanted), atol=2e-3)
    assert [step.index for step in other] == [1]
    assert not emoji._interrupt
    run = emoji.start("a fish", seed=1, num_inference_steps=3)
    for _ in run:
        emoji._interrupt = True  # from outside of a callback: every run under way
    assert run.finish().images[0].size == (64, 64)


ARGUMENTS = {
    "callback": (print, "callback: no such argument; pass callback_on_step_end=function, which takes (pipe, step, "),
    "callback_steps": (1, "callback_steps: no such argument; callback_on_step_end is called after every step"),
    "cross_attention_kwargs": (
        {"scale": 0.5},
        "got 'scale'; set the scale of a LoRA with pipe.loras.set_scale(0.5)",
    ),
    "ip_adapter_image": (
        0,
        "ip_adapter_image: got one, but this bundle has no IP-Adapter; export it with --ip-adapter",
    ),
    "num_steps": (3, "num_steps: no such argument. Did you mean 'num_inference_steps'? Expected one of adapter_c"),
    "num_inference_step": (3, "no such argument. Did you mean 'num_inference_steps'?"),
    "controlnet_pooled_projections": (1, "controlnet_pooled_projections: no such argument; ControlNets get the pooled"),
    "steps": (3, "steps: no such argument; pass num_inference_steps"),
    "return_dicts": (True, "return_dicts: no such argument"),
    "num_inference_steps": (True, "num_inference_steps: got True, expected a whole number"),
    "num_images_per_prompt": (True, "num_images_per_prompt: got True, expected a whole number"),
    "guidance_scale": (False, "guidance_scale: got False, expected a number"),
    "eta": ("0", "eta: got '0', expected a number of at least 0 and at most 1"),
    "height": (True, "height: got True, expected a whole number"),
    "width": (16.0, "width: got 16.0, expected a whole number of pixels"),
    "seed": (True, "seed: got True, expected a whole number"),
    "clip_skip": (True, "clip_skip: got True, expected a whole number"),
    "mu": ("x", "mu: got ['x'], expected a list of numbers"),
    "timesteps": (5, "timesteps: got 5, expected a list of numbers"),
    "sigmas": ([1.0, None], "sigmas: got [1.0, None], expected a list of numbers"),
    "latents": (
        torch.zeros(SHAPE),
        "latents: got torch.Tensor, expected a NumPy array of floats; pass latents.numpy()",
    ),
    "prompt_embeds": (torch.zeros(1, 77, 8), "prompt_embeds: got torch.Tensor, expected a NumPy array of floats; pass"),
    "negative_prompt": (5, "negative_prompt: got int, expected a string or 1 of them"),
    "generator": (
        np.random.default_rng(0),
        "generator: got numpy.random._generator.Generator, expected seed=0, a torch",
    ),
    "scheduler": (5, "scheduler: got int, expected a name such as 'euler', or a class or an instance of diffoundry"),
    "output_type": ("pt", "output_type: got 'pt', expected one of pil, np, latent"),
    "callback_on_step_end": ("x", "callback_on_step_end: got str, expected a function"),
}

MORE = [
    ({"seed": "x"}, "seed: got 'x', expected a whole number or a list of them"),
    ({"seed": 1.5}, "seed: got 1.5, expected a whole number or a list of them"),
    ({"latents": [1, 2]}, "latents: got list, expected a NumPy array of floats"),
    ({"latents": np.zeros(SHAPE, int)}, f"latents: got int64 {SHAPE}, expected a NumPy array of floats"),
    ({"latents": np.zeros((1, 8, 4, 4), np.float32)}, "latents: got shape (1, 8, 4, 4), expected"),
    ({"generator": 0, "seed": None}, "which draws the same; pass seed=0"),
    ({"generator": [], "seed": None}, "generator: got 0, expected one or 1"),
    ({"generator": True, "seed": None}, "generator: got True, expected a generator"),
    ({"generator": np.random, "seed": None}, "generator: got module, expected seed=0, a torch.Generator"),
    ({"callback_on_step_end": True}, "callback_on_step_end: got True, expected a function"),
    ({"scheduler": Scheduler}, "schedulers.base.Scheduler'>, expected a name such as 'euler', or a class"),
    ({"height": 0}, "height: got 0, expected a whole number of pixels"),
    ({"guidance_scale": 10**400}, "guidance_scale: got 1000000000"),
    ({"num_inference_steps": np.int64(2), "seed": np.int64(0)}, None),
    (
        {"callback_on_step_end": lambda *_: {}, "callback_on_step_end_tensor_inputs": 5},
        "tensor_inputs: got 5, expected a",
    ),
]

PROMPTS = {
    "int": (5, "prompt: got 5, expected a string or a list of at least one"),
    "bytes": (b"x", "prompt: got b'x', expected a string or a list of at least one"),
    "array": (np.array(["a", "b"]), "prompt: got array(['a', 'b'], dtype='<U1'), expected a string"),
    "mixed": (["a", 3], "prompt: got ['a', 3], expected a string or a list of at least one"),
    "bool": (True, "prompt: got True, expected a text"),
    "tensor": (torch.zeros(2), "prompt: got tensor([0., 0.]), expected a string"),
}


def test_arguments_of_diffusers_and_odd_values_get_a_sentence(pipe):
    cases = [*(({name: value}, text) for name, (value, text) in ARGUMENTS.items()), *MORE]
    for arguments, text in cases:
        seed = {"seed": None} if "generator" in arguments else {}
        if text is None:
            with np.errstate(all="ignore"):
                pipe("a red apple", **changed(**arguments))
            continue
        with pytest.raises(InputError, match=re.escape(text)):
            pipe("a red apple", **changed(**{**seed, **arguments}))
    for prompt, text in PROMPTS.values():
        with pytest.raises(InputError, match=re.escape(text)):
            pipe(prompt, **FAST)
    with pytest.raises(InputError, match=re.escape("return_dict: no such argument; start() returns a run")):
        pipe.start("a red apple", **FAST, return_dict=False)


ATTRIBUTES = {
    "unet": "DiffusionPipeline has no 'unet' as in diffusers; the network that runs in every step is pipe.denoiser",
    "components": "the engines are in pipe.session",
    "enable_model_cpu_offload": "load the bundle with load(path, low_memory=True)",
    "enable_attention_slicing": "the engines choose their attention kernels when a bundle is exported; leave it out",
    "encode_prompt": "pass prompt_embeds= to the call; the encoders are in pipe.text_encoders",
    "tokenizer": "it is pipe.text_encoders[0].tokenizer",
    "fuse_lora": "'diffoundry export --lora' makes it part of a bundle",
    "set_adapters": "set the scale of a LoRA with pipe.loras.set_scale(scale, name)",
    "save_pretrained": "a bundle is a folder that can be copied",
    "unload_ip_adapter": "without ip_adapter_image a call generates as without IP-Adapters",
    "disable_freeu": "FreeU is not supported",
    "cuda": "choose the device in load(path, device=...)",
    "half": "choose the precision in load(path, precision=...)",
    "name_or_path": "the folder is pipe.session.bundle.root",
    "do_classifier_free_guidance": "guidance runs where guidance_scale is above 1",
    "shceduler": "'DiffusionPipeline' object has no attribute 'shceduler'. Did you mean 'scheduler'?",
    "xyzzy": "'DiffusionPipeline' object has no attribute 'xyzzy'.",
}


def test_attributes_of_diffusers_name_our_way(pipe):
    for name, text in ATTRIBUTES.items():
        assert not hasattr(pipe, name)
        with pytest.raises(AttributeError, match=re.escape(text)):
            getattr(pipe, name)
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_vae_tiling()
    assert pipe.vae.tiles
    pipe.disable_vae_tiling()
    assert not pipe.vae.tiles
    with pytest.raises(InputError, match="nothere/x.safetensors"):
        pipe.load_lora_weights("nothere", weight_name="x.safetensors", adapter_name="x")


def test_names_of_version_0_1_still_work(pipe):
    aliases = {"load_lora": "load", "set_lora_scale": "set_scale", "unload_lora": "unload"}
    assert [getattr(pipe, name) == getattr(pipe.loras, ours) for name, ours in aliases.items()] == [True] * 3
    assert pipe.load_textual_inversion == pipe.embeddings.load


def test_load_takes_device_and_threads_and_fails_early(emoji_bundle, emoji_folder):
    pipe = load(emoji_bundle, device="cpu", threads=1)
    assert pipe.to("cpu") is pipe
    assert pipe.to(torch.device("cpu")) is pipe
    assert pipe.session.choice("unet").device == "cpu"
    options = diffoundry.EngineOptions(threads=2)
    for arguments, error, text in (
        ({"target": "openvino"}, EngineError, "got no engine for openvino, the bundle holds onnxruntime fp32"),
        ({"target": "onnxruntim"}, EngineError, "Did you mean 'onnxruntime'?"),
        ({"precision": "fp17"}, EngineError, "got no engine for fp17, the bundle holds onnxruntime fp32"),
        ({"target": 5}, InputError, "target: got 5, expected a name, or None for the first that runs here"),
        ({"precision": True}, InputError, "precision: got True, expected a name, or None"),
        ({"options": {"threads": 2}}, InputError, "options: got {'threads': 2}, expected EngineOptions"),
        ({"low_memory": "x"}, InputError, "low_memory: got 'x', expected True or False"),
        ({"device": 5}, InputError, "device: got 5, expected a name such as 'cpu' or 'cuda'"),
        ({"threads": True}, InputError, "threads: got True, expected a whole number of at least 1"),
        ({"threads": 0}, InputError, "threads: got 0, expected a whole number of at least 1"),
        ({"threads": 1, "options": options}, InputError, "threads: got 1, but options has 2; pass one of them"),
    ):
        with pytest.raises(error, match=re.escape(text)):
            load(emoji_bundle, **arguments)
    with pytest.raises(InputError, match="path: got 5, expected the folder of a bundle"):
        load(5)
    with pytest.raises(diffoundry.runtime.errors.BundleError, match="this is a PyTorch checkpoint in diffusers format"):
        load(emoji_folder)
    with pytest.raises(InputError, match=re.escape("to: got 'cuda', but the engines run on 'cpu' and cannot move")):
        pipe.to("cuda")
    with pytest.raises(InputError, match=re.escape("to: got torch.float16, but the precision is chosen when loading")):
        pipe.to("cpu", torch.float16)


def test_from_pretrained_opens_a_bundle(emoji_bundle):
    options = {"use_safetensors": True, "torch_dtype": None}
    pipe = DiffusionPipeline.from_pretrained(emoji_bundle, scheduler="euler_a", threads=1, **options)
    assert type(pipe.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert diffoundry.DiffusionPipeline is DiffusionPipeline
    for options, text in (
        ({"torch_dtype": torch.float16}, "torch_dtype: from_pretrained of a bundle takes no such option; choose the"),
        ({"device_map": "auto"}, "choose the device: device='cuda'"),
        ({"precison": "fp16"}, "precison: from_pretrained of a bundle takes no such option. Did you mean 'precision'?"),
    ):
        with pytest.raises(InputError, match=re.escape(text)):
            DiffusionPipeline.from_pretrained(emoji_bundle, **options)


def test_python_runs_the_package(tmp_path):
    command = [sys.executable, "-m", "diffoundry", "--version"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.startswith(
        diffoundry.__version__
    )


def test_a_closed_pipeline_says_so(emoji_bundle):
    with load(emoji_bundle) as pipe:
        pipe("a fish", seed=0, num_inference_steps=1, output_type="latent")
        assert "unet" in pipe.session.opened
    assert pipe.session.opened == ()
    with pytest.raises(EngineError, match="the pipeline was closed; load the bundle again"):
        pipe("a fish", seed=0, num_inference_steps=1)


def test_closing_while_another_thread_generates(emoji_bundle):
    """`session.close` lets the run go on with fresh engines, `close` ends it with a sentence; neither breaks a call."""
    arguments = {"seed": 0, "num_inference_steps": 3, "output_type": "latent"}
    pipe = load(emoji_bundle)
    expected = pipe("a fish", **arguments).images

    def close_during_a_call(close):
        engine = pipe.session.engine("unet")
        run = engine.run

        def closed_meanwhile(feeds):
            thread = threading.Thread(target=close)
            thread.start()
            thread.join()
            return run(feeds)

        engine.run = closed_meanwhile
        return engine

    engine = close_during_a_call(pipe.session.close)
    np.testing.assert_array_equal(pipe("a fish", **arguments).images, expected)
    assert pipe.session.engine("unet") is not engine
    with pytest.raises(EngineError, match="closed"):
        engine.run({})  # it was closed after its call
    close_during_a_call(pipe.close)
    with pytest.raises(EngineError, match="the pipeline was closed; load the bundle again"):
        pipe("a fish", **arguments)
    assert pipe.session.opened == ()

"""Old configs, corrected by each supported pipeline class of diffusers as its own `__init__` does it."""

import inspect
import re
from functools import cache
from itertools import product

import diffusers
import pytest
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.pipelines.class_overrides import open_scheduler, override_sample_size
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, class_of_call
from diffoundry.runtime.pipelines.tasks import TASKS
from diffoundry.runtime.schedulers import make_scheduler

_FAMILIES = [entry for entry in FAMILY_TABLE if issubclass(resolve(entry.runtime), Family)]
"""Systems have an `open_scheduler` of their own, which their tests follow."""

_CLASSES = [name for entry in _FAMILIES for name in entry.classes]
_OLD = (
    {},
    {"steps_offset": 0},
    {"clip_sample": True},
    {"skip_prk_steps": False},
    {"steps_offset": 2, "clip_sample": True, "skip_prk_steps": False},
)


@pytest.fixture(scope="module")
def networks():
    """The smallest networks that the constructors look into."""
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=2,
        cross_attention_dim=4,
        layers_per_block=1,
        attention_head_dim=2,
        sample_size=32,
    )
    return {"unet": unet, "vae": diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)}


class _Processor:
    """A processor with the members that the constructor of Qwen-Image 2.1 reads."""

    def __init__(self):
        self.tokenizer = self

    def apply_chat_template(self, messages, **options):
        return [[0]]

    def encode(self, text):
        return [0]


@cache
def _own_networks(name):
    """Networks that only this class looks into."""
    if name == "QwenImage21Pipeline":
        return {"processor": _Processor(), "vae": None}
    if name.startswith("QwenImage"):
        return {"vae": diffusers.AutoencoderKLQwenImage(base_dim=4, z_dim=4, num_res_blocks=1)}
    if name == "Flux2KleinKVPipeline":
        transformer = diffusers.Flux2Transformer2DModel(
            num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1, joint_attention_dim=8,
            axes_dims_rope=(4, 4, 4, 4), in_channels=4,
        )  # fmt: skip
        return {"transformer": transformer}
    if name.startswith("ZImageControlNet"):
        sizes = {"dim": 16, "n_heads": 1, "n_kv_heads": 1, "n_refiner_layers": 0}
        return {
            "transformer": diffusers.ZImageTransformer2DModel(n_layers=1, axes_dims=[4, 6, 6], **sizes),
            "controlnet": diffusers.ZImageControlNetModel(
                control_layers_places=[0], control_in_dim=33 if "Inpaint" in name else 16, **sizes
            ),
        }
    return {}


def _construct(name, networks, scheduler):
    cls = getattr(diffusers, name)
    taken = inspect.signature(cls.__init__).parameters
    empty = {key: None for key, value in taken.items() if key != "self" and value.default is inspect.Parameter.empty}
    extra = {"requires_safety_checker": False} if "requires_safety_checker" in taken else {}
    parts = {key: value for key, value in networks.items() if key in taken}
    parts |= _own_networks(name)
    return cls(**{**empty, **extra, **parts, "scheduler": scheduler})


def _options(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


def test_scheduler_configs_are_those_of_the_class(networks):
    """A DPM-Solver has no clip_sample, but hands it on to the scheduler that takes over its config."""
    for name, scheduler, old in product(_CLASSES, ("PNDM", "DPMSolverMultistep"), _OLD):
        config = {"_class_name": f"{scheduler}Scheduler", **old}
        theirs = _construct(name, networks, getattr(diffusers, f"{scheduler}Scheduler").from_config(config))
        ours = open_scheduler(config, name).config
        found = _options(ours)
        assert found == _options(theirs.scheduler.config), (name, scheduler, old)
        following = _options(diffusers.DDIMScheduler.from_config(theirs.scheduler.config).config)
        assert _options(make_scheduler("DDIM", ours).config) == following, (name, scheduler, old)


def test_the_sample_size_is_that_of_the_class(networks):
    names = [name for name in _CLASSES if "unet" in inspect.signature(getattr(diffusers, name)).parameters]
    assert len(names) > 15
    for name, version in product(names, ("0.8.1", "0.9.0.dev0", "0.10.0", None)):
        unet = diffusers.UNet2DConditionModel.from_config(networks["unet"].config)
        if version is not None:
            unet.register_to_config(_diffusers_version=version)
        scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
        theirs = _construct(name, {**networks, "unet": unet}, scheduler)
        size = theirs.unet.config.sample_size
        assert override_sample_size(name, (32, 32), version) == (size, size), (name, version)
    name = "StableDiffusionPipeline"
    assert override_sample_size(name, (32, 48), "0.8.1") == (32, 48)  # diffusers: TypeError, or as it is
    assert override_sample_size(name, (96, 96), "0.8.1") == (96, 96)
    assert override_sample_size(name, None, "0.8.1") is None


def test_the_tuple_of_return_dict_is_that_of_the_class():
    for entry in _FAMILIES:
        for name, found in entry.classes.items():
            task = next(task for task in TASKS if task.name == found.task)
            flags = resolve(entry.runtime).returns_flags and task.returns_flags
            source = inspect.getsource(getattr(diffusers, name).__call__)
            returned = r"return \(image, has_nsfw_concept\)" if flags else r"return \(images?,\)"
            assert re.search(returned, source), name


def test_the_class_is_that_of_the_call():
    assert class_of_call("StableDiffusionPipeline", "image_to_image", controlnet=False) == (
        "StableDiffusionImg2ImgPipeline"
    )
    assert class_of_call("StableDiffusionControlNetPipeline", "text_to_image", controlnet=False) == (
        "StableDiffusionPipeline"
    )
    assert class_of_call("StableDiffusionPipeline", "inpainting", controlnet=True) == (
        "StableDiffusionControlNetInpaintPipeline"
    )
    assert class_of_call("UnknownPipeline", "text_to_image", controlnet=False) == "UnknownPipeline"


def _with_scheduler(folder, name, scheduler, **config):
    """Our pipeline's config and diffusers' pipeline, both with an old scheduler config."""
    theirs = diffusers_pipeline(folder, name)
    old = {**_options(theirs.scheduler.config), **config}
    old = {"_class_name": f"{scheduler}Scheduler", **old}
    theirs = diffusers_pipeline(folder, name, scheduler=getattr(diffusers, f"{scheduler}Scheduler").from_config(old))
    return old, theirs


@pytest.mark.slow_cases(
    "DDIM-*-StableDiffusionPipeline-*", "DDIM-*-StableDiffusionInpaint*", "PNDM-*-StableDiffusionI*"
)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("StableDiffusionPipeline", {}),
        ("StableDiffusionImg2ImgPipeline", {"image": True, "strength": 0.8}),
        ("StableDiffusionInpaintPipeline", {"image": True, "mask_image": True, "strength": 0.9}),
    ],
)
@pytest.mark.parametrize(
    ("scheduler", "config"),
    [("PNDM", {"steps_offset": 0, "skip_prk_steps": False}), ("DDIM", {"steps_offset": 0, "clip_sample": True})],
)
def test_every_step_with_an_old_config(emoji, emoji_folder, apple, name, arguments, scheduler, config):
    old, theirs = _with_scheduler(emoji_folder, name, scheduler, **config)
    ours = load(emoji.session.bundle.root)
    ours.scheduler_config = old
    mask = Image.new("L", apple.size, 0)
    mask.paste(255, (16, 16, 48, 48))
    images = {"image": apple, "mask_image": mask}
    arguments = {key: images.get(key, value) for key, value in arguments.items()}
    compare(ours, theirs, "a rocket", num_inference_steps=5, **arguments)


def test_every_step_of_an_instruction_with_an_old_config(exported, tiny_sd_checkpoint, apple):
    folder = tiny_sd_checkpoint("instruct")
    ours = load(exported(folder))
    old, theirs = _with_scheduler(folder, "StableDiffusionInstructPix2PixPipeline", "PNDM", steps_offset=0)
    ours.scheduler_config = old
    compare(ours, theirs, "make it green", image=apple, num_inference_steps=5)

"""IP-Adapters of FLUX.1 against diffusers' own pipelines, after every step."""

import diffusers
import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from safetensors.torch import load_file, save_file
from system_pair import compare_system, open_theirs
from tiny_flux import DEEP, make_flux
from tiny_ip_adapters import write_tiny_flux_ip_adapter, write_tiny_image_encoder

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.run import verify
from diffoundry.runtime import load
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.pipelines.ip_adapter import ImagePrompts
from diffoundry.runtime.pipelines.ip_adapter_inputs import ImagePromptInputs

pytestmark = pytest.mark.slow

FLUX = "FluxPipeline"
FILES = ("xlabs.safetensors", "diffusers.safetensors")
BLOCKS = 3


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("flux-deep", lambda folder: make_flux(folder, **DEEP))


@pytest.fixture(scope="module")
def adapters(folder, shared_folder):
    """The files of two IP-Adapters, with the image encoder beside them."""
    place = shared_folder / "flux-ip"
    files = [place / name for name in FILES]
    if not files[-1].is_file():
        write_tiny_image_encoder(place / "image_encoder")
        for file in files:
            write_tiny_flux_ip_adapter(file, folder / "transformer", file.stem)
    return files


@pytest.fixture(scope="module")
def bundles(folder, adapters, exported):
    one, two = ((str(adapters[0]),), tuple(map(str, adapters)))
    return {1: exported(folder, target="onnxruntime,openvino", ip_adapters=one), 2: exported(folder, ip_adapters=two)}


@pytest.fixture(scope="module")
def theirs(folder, adapters):
    """Opens diffusers' pipeline of a class with one or two IP-Adapters, and sets their scale."""

    def make(name, count, scale=1.0):
        pipeline = open_theirs(folder, name)
        pipeline.load_ip_adapter(
            str(adapters[0].parent),
            weight_name=list(FILES[:count]),
            image_encoder_pretrained_model_name_or_path=str(adapters[0].parent / "image_encoder"),
            image_encoder_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
        pipeline.set_ip_adapter_scale(scale)
        return pipeline

    return make


def image(seed=0, side=40):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (side, 36, 3), np.uint8))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


GUIDED = {"negative_prompt": "blue", "true_cfg_scale": 3.0}
CASES = {
    "a black negative": (1, {"ip_adapter_image": image(), **GUIDED}, 0.7),
    "both images, several prompts": (
        1,
        {
            "prompt": ["a cat", "a dog"], "ip_adapter_image": image(1), "negative_ip_adapter_image": image(2),
            "num_images_per_prompt": 2, **GUIDED, "negative_prompt": ["blue", ""],
        },
        [0.25, -1.0, 2.0],
    ),
    "only a negative": (1, {"negative_ip_adapter_image": image(2), **GUIDED}, 1.0),
    "no guidance": (1, {"ip_adapter_image": image(side=20)}, 0.5),
    "two": (2, {"ip_adapter_image": [image(), image(1)], **GUIDED}, [[0.5, 0.1, 1.0], 0.75]),
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(bundles, theirs, target):
    for name, (count, case, scale) in CASES.items():
        if target == "openvino" and name != "both images, several prompts":
            continue
        arguments = {
            "prompt": "a cat", "height": 16, "width": 24, "num_inference_steps": 3, "max_sequence_length": 9, **case,
        }  # fmt: skip
        ours = load(bundles[count], target=target)
        compare_system(ours, theirs(FLUX, count, scale), ours_only={"ip_adapter_scale": scale}, **arguments)


@pytest.mark.parametrize("name", ["FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def test_other_classes_take_image_prompts(bundles, theirs, name):
    mask = fromarray(np.tril(np.full((16, 24), 255, np.uint8)))
    more = {"mask_image": mask} if "Inpaint" in name else {}
    arguments = {"height": 16, "width": 24, "num_inference_steps": 4, "strength": 0.8, "max_sequence_length": 9}
    compare_system(
        load(bundles[1]), theirs(name, 1), prompt="a cat", image=image().resize((24, 16)), **more,
        ip_adapter_image=image(3), **GUIDED, **arguments, watch=False,
    )  # fmt: skip


def test_embeddings_are_those_of_diffusers(bundles, theirs):
    """Several images for one prompt, and fewer for the negative one, of which diffusers takes any number."""
    embeds, negative = normal(1, 2, 24), normal(1, 1, 24, seed=1)
    given = {"ip_adapter_image_embeds": [embeds], "negative_ip_adapter_image_embeds": [negative]}
    tensors = {name: [torch.from_numpy(one) for one in some] for name, some in given.items()}
    few = {"height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 9}
    compare_system(
        load(bundles[1]), theirs(FLUX, 1), prompt="a cat", ours_only=given, theirs_only=tensors, **GUIDED, **few
    )


def test_without_image_prompts_nothing_changes(bundles, folder):
    few = {"height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 9}
    compare_system(load(bundles[2]), open_theirs(folder, FLUX), prompt="a cat", **GUIDED, **few)


@pytest.mark.slow
def test_verify_passes(bundles):
    report = verify(bundles[1], request=VerifyRequest(prompts=("a cat",), steps=2, target="onnxruntime"))
    assert report.passed, [check for check in report.checks if not check.passed]


ERRORS = {
    "masks": (
        {"ip_adapter_image": image(), "ip_adapter_masks": image().convert("L")},
        "ip_adapter_masks: got some, expected none: image prompts of FLUX.1 have no masks",
    ),
    "two": ({"ip_adapter_image": [image(), image()]}, "ip_adapter_image: got 2 for 1 IP-Adapters of this bundle"),
    "two negatives": (
        {"ip_adapter_image": image(), "negative_ip_adapter_image": [image()] * 2},
        "negative_ip_adapter_image: got 2 for 1 IP-Adapters of this bundle, expected one for each",
    ),
    "both": (
        {"negative_ip_adapter_image": image(), "negative_ip_adapter_image_embeds": [normal(1, 1, 24)]},
        "negative_ip_adapter_image and negative_ip_adapter_image_embeds: got both, expected one of them",
    ),
    "scales": (
        {"ip_adapter_image": image(), "ip_adapter_scale": [1.0, 2.0]},
        "ip_adapter_scale: got a list of 2, expected a number, or 3: one for each double block",
    ),
    "too many scales": (
        {"ip_adapter_image": image(), "ip_adapter_scale": [[1.0] * BLOCKS] * 2},
        "ip_adapter_scale: got 2 for 1 IP-Adapters of this bundle, expected one for each",
    ),
    "blocks by name": (
        {"ip_adapter_image": image(), "ip_adapter_scale": {"down": 1.0}},
        "ip_adapter_scale: got {'down': 1.0}, expected a number",
    ),
    "an array": (
        {"ip_adapter_image_embeds": [normal(2, 1, 24)]},
        r"ip_adapter_image_embeds: got float32 \(2, 1, 24\), expected a list of floats \(1, images, width\)",
    ),
    "too many arrays": (
        {"ip_adapter_image_embeds": [normal(1, 1, 24)] * 2},
        "ip_adapter_image_embeds: got 2 for 1 IP-Adapters of this bundle, expected one for each",
    ),
    "a width": (
        {"ip_adapter_image_embeds": [normal(1, 1, 7)]},
        r"ip_adapter_image_embeds: got \(1, 1, 7\), expected \(1, images, 24\) for ip_adapter",
    ),
}


def test_wrong_arguments_are_refused(bundles):
    ours = load(bundles[1])
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start("a cat", height=16, width=16, **arguments)
    with pytest.raises(InputError, match=r"negative_ip_adapter_image: got one, expected none: this bundle has no IP-A"):
        ImagePrompts(ours.session, ours.denoiser.component).check(ImagePromptInputs(negative_ip_adapter_image=image()))


def test_wrong_files_are_refused(folder, adapters, tmp_path):
    plain = open_checkpoint(str(folder))
    tensors = load_file(adapters[0])
    changes = {
        "got no IP-Adapter of FLUX.1, expected tensors": {"a": torch.zeros(1)},
        "got weights for 2 double blocks, but the transformer has 3": {
            name: tensor for name, tensor in tensors.items() if not name.startswith("double_blocks.2.")
        },
        r"but the transformer takes \(32, 32\), and 4 tokens of 32": {
            name: torch.cat([tensor] * 2) if name.endswith("_proj.weight") else tensor
            for name, tensor in tensors.items()
        },
    }
    for words, changed in changes.items():
        file = tmp_path / "changed.safetensors"
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=words):
            plain.with_ip_adapters([str(file)], str(adapters[0].parent / "image_encoder"))


def test_the_network_is_that_of_load_ip_adapter(folder, adapters, theirs):
    """The attention and the projections, tensor by tensor."""
    ours = open_checkpoint(str(folder)).with_ip_adapters([str(file) for file in adapters]).load("transformer")
    expected = theirs(FLUX, 2).transformer
    assert isinstance(ours, diffusers.FluxTransformer2DModel)
    found = ours.state_dict()
    assert found.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found[name], tensor), name

"""A tiny stand-in for the two npm packages, and a tiny checkpoint in diffusers' layout."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from device_precisions import requires_precision
from PIL import Image, ImageDraw

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "emoji"

# label, code point in the table, file name, colour; a file name of None: no image.
EMOJI = [
    ("red heart", "2764", "2764-fe0f", (220, 20, 40)),
    ("Christmas tree", "1F384", "1f384", (20, 160, 60)),
    ("flag: Finland", "1F1EB-1F1EE", "1f1eb-1f1ee", (0, 50, 130)),
    ("droplet", "1F4A7", "1f4a7", (60, 150, 240)),
    ("phantom", "1F9FF", None, (0, 0, 0)),
    ("sun", "2600-FE0F", "2600-fe0f", (250, 200, 30)),
]


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """Content of --data once both packages are unpacked: four base emoji, a flag, and one without an image."""
    folder = tmp_path_factory.mktemp("data")
    assets = folder / "fluent-emoji-3d-1.1.0" / "assets"
    assets.mkdir(parents=True)
    table = []
    for number, (label, code, name, colour) in enumerate(EMOJI):
        table.append({"label": label, "hexcode": code, "tags": [f"tag{number}", "shared"]})
        if name is not None:
            image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
            box = (20 * number, 40, 256 - 10 * number, 200 + 5 * number)
            ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
            image.save(assets / f"{name}.webp", lossless=True)
    labels = folder / "emojibase-data-17.0.0" / "en"
    labels.mkdir(parents=True)
    (labels / "data.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """The shipped tokenizer and wiring around networks of a few thousand weights."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copyfile(SHIPPED / "model_index.json", folder / "model_index.json")
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(SHIPPED / name, folder / name)
    torch.manual_seed(11)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    ).half().save_pretrained(folder / "vae")
    diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).half().save_pretrained(folder / "unet")
    config = transformers.CLIPTextConfig.from_pretrained(SHIPPED / "text_encoder")
    for key, value in {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}.items():
        setattr(config, key, value)
    transformers.CLIPTextModel(config).half().save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def tiny_base(data_folder, tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint, with the labels of two of the four emoji."""
    from diffoundry_models.emoji.training import data

    folder = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(tiny_checkpoint, folder)
    data.write_captions(data.load_emoji(data_folder)[:2], folder / "captions.json")
    return folder


@pytest.fixture
def workspace(data_folder, tiny_checkpoint):
    """Makes a workspace on the tiny data: `workspace(out, scratch=False, count=4)`."""
    from diffoundry_models.emoji.training import checkpoint, data
    from diffoundry_models.emoji.training.workspace import Workspace

    def make(out, *, scratch=False, count=4):
        emoji = data.load_emoji(data_folder)[:count]
        checkpoint.prepare_folder(out, tiny_checkpoint)
        init = None if scratch else tiny_checkpoint
        images = data.images(emoji)
        return Workspace(out=out, init=init, architecture=tiny_checkpoint, emoji=emoji, images=images)

    return make


@pytest.fixture(scope="session")
def load_script():
    """Opens a script of a folder of `models/` whose name no import statement could spell."""

    def open_script(folder, name):
        spec = importlib.util.spec_from_file_location(name, SHIPPED.parent / folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return open_script


TARGETS = ("onnxruntime", "openvino")
ENGINES = [
    *((target, "fp32") for target in TARGETS),
    *(pytest.param(target, word, marks=pytest.mark.slow) for target in TARGETS for word in ("fp16", "int8-weights")),
    pytest.param("openvino", "bf16", marks=pytest.mark.slow),
]
"""Target and precision of what the companions are tried on."""


@pytest.fixture(scope="session")
def guided(exported):
    """Factory: the emoji model with its ControlNet on an engine of `ENGINES`; without edges it generates as ever."""
    from diffoundry.runtime import load

    def make(target, precision):
        requires_precision(target, precision)
        bundle = exported("emoji", controlnets=("emoji-edges",), target=target, precision=precision)
        return load(bundle, target=target, precision=precision)

    return make

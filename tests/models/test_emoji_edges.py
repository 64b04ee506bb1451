"""The shipped ControlNet for edges: images follow edges that the base never generated along, on every engine."""

import importlib.resources
import json

import numpy as np
import pytest
from PIL import Image

from diffoundry_models.emoji.training.edges import edge_image, edges, overlap
from tests.models.conftest import ENGINES

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

MODELS = importlib.resources.files("diffoundry_models")
EDGES = MODELS / "emoji-edges"
LABELS = ("red apple", "umbrella", "balloon")
SETTINGS = {"num_inference_steps": 10, "guidance_scale": 2.0, "seed": 0, "output_type": "np"}


def moved(pixels):
    """Mirrored, three quarters as large, in the lower left corner."""
    image = Image.fromarray((255 * pixels).round().astype(np.uint8)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sheet = Image.new("RGB", (64, 64), "white")
    sheet.paste(image.resize((48, 48), Image.Resampling.BICUBIC), (4, 14))
    return sheet


@pytest.fixture(scope="module")
def asked(guided):
    """Edges of what the base generates for each label, moved."""
    pipe = guided("onnxruntime", "fp32")
    return [edge_image(moved(pipe(f"a {label}", **SETTINGS).images[0])) for label in LABELS]


def follows(images, asked):
    """Overlap of the images' edges with those asked for, (N,)."""
    drawn = edges(2 * np.stack(images).transpose(0, 3, 1, 2) - 1)
    wanted = np.stack([np.asarray(lines) for lines in asked]).transpose(0, 3, 1, 2)[:, :1]
    return overlap(drawn, wanted)


@pytest.mark.slow_cases("onnxruntime-*")
@pytest.mark.slow_cases("openvino-*")
@pytest.mark.parametrize(("target", "precision"), ENGINES)
def test_images_follow_the_edges(guided, asked, target, precision):
    pipe = guided(target, precision)
    scores = []
    for scale in (0.0, 0.5, 1.0):
        shown = {"control_image": asked, "controlnet_conditioning_scale": scale}
        scores.append(follows(pipe([f"a {label}" for label in LABELS], **shown, **SETTINGS).images, asked))
    without, half, whole = scores
    assert (half > without + 0.15).all()
    assert (whole > without + 0.3).all()
    assert whole.mean() > 0.85


@pytest.mark.slow
def test_the_folder_opens_in_diffusers_and_generates_the_same(guided, asked):
    net = diffusers.ControlNetModel.from_pretrained(EDGES, torch_dtype=torch.float32, use_safetensors=True)
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        MODELS / "emoji", controlnet=net, torch_dtype=torch.float32, safety_checker=None
    )
    theirs.set_progress_bar_config(disable=True)
    settings = {name: value for name, value in SETTINGS.items() if name != "seed"}
    generator = torch.Generator().manual_seed(SETTINGS["seed"])
    expected = theirs("a red apple", image=asked[0], generator=generator, **settings).images[0]
    got = guided("onnxruntime", "fp32")("a red apple", control_image=asked[0], **SETTINGS).images[0]
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_shipped_files():
    weights = EDGES / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 5e6
    header = json.loads(weights.read_bytes()[8:200_000].split(b"}}", 1)[0] + b"}}")
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}
    card, notice = ((EDGES / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE"))
    for package in ("@lobehub/fluent-emoji-3d 1.1.0", "emojibase-data 17.0.0"):
        assert package in notice
        assert package.split()[0] in card
    assert "THE SOFTWARE IS PROVIDED" in notice


def test_edges_of_a_square_are_its_outline():
    image = np.ones((1, 3, 64, 64), np.float32)
    image[..., 20:40, 10:50] = -1
    lines = edges(image)[0, 0]
    down, across = np.nonzero(lines)
    assert set(np.unique(down)) <= {19, 20, 39, 40, *range(20, 40)}
    inside = (down > 21) & (down < 38)
    assert set(across[inside]) <= {9, 10, 49, 50}
    assert (lines[25:35] == 1).sum() == 2 * 10  # one pixel thin, left and right
    tensor = edges(torch.from_numpy(image))
    assert np.array_equal(tensor.numpy()[0, 0], lines)
    assert not edges(image * 0).any()


def test_overlap_is_the_harmonic_mean_of_two_shares():
    wanted = np.zeros((1, 1, 16, 16), np.float32)
    drawn = wanted.copy()
    wanted[..., 4, :8] = 1
    drawn[..., 5, :4] = 1  # one pixel off: half of what is wanted, with the one across its end
    precision, recall = 1.0, 5 / 8
    assert overlap(drawn, wanted)[0] == pytest.approx(2 * precision * recall / (precision + recall))
    drawn[..., 5, :4], drawn[..., 6, :4] = 0, 1  # two pixels off
    assert overlap(drawn, wanted)[0] == 0
    assert overlap(wanted * 0, wanted)[0] == 0


def test_the_command_makes_edges(tmp_path, load_script):
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    load_script("emoji-edges", "edges").main(str(tmp_path / "clear.png"), str(tmp_path / "edges.png"))
    with Image.open(tmp_path / "edges.png") as image:
        assert image.mode == "RGB"
        assert not np.asarray(image).any()  # what is transparent is white, as images are when they are generated on

"""Example images and masks, to measure checkpoints that generate from images."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ADAPTER",
    "CONTROL",
    "CONTROL_MASK",
    "CONTROL_MODE",
    "DEPTH_MAP",
    "EXAMPLE_INPUTS",
    "HINT",
    "IMAGE_PROMPT",
    "ORIGINAL",
    "PROMPT",
    "example_input_names",
    "make_example_arrays",
    "make_example_inputs",
]

FloatArray: TypeAlias = npt.NDArray[np.float32]

DEPTH_MAP = "depth_map"
"""Argument of depth to image, which a pipeline with a depth estimator does without."""

EXAMPLE_INPUTS = ("image", "mask_image", DEPTH_MAP, "strength")
"""Arguments of tasks that have an example."""

CONTROL, ADAPTER, PROMPT = "control_image", "adapter_image", "ip_adapter_image"
"""Arguments of ControlNets, T2I-Adapters and IP-Adapters, which have examples too."""

ORIGINAL = "original_image"
"""Argument for the image to start from where `image` is a small one to enlarge."""

HINT = "hint"
"""Argument for an image as an array of channels in 0..1."""

CONTROL_MASK = "control_mask"
"""Argument of ControlNets for inpainting, of which the middle is white."""

CONTROL_MODE = "control_mode"
"""Argument of unions of ControlNets, which is their first kind of image."""

IMAGE_PROMPT = "image prompt"
"""Name for an image that conditions instead of a text: its size is not that of the result."""


def example_input_names(
    task: type[Any], joined: Mapping[str, int], *, texts: bool, estimates_depth: bool = False
) -> tuple[str, ...]:
    """Return the names for `make_example_inputs` of a pipeline.

    Args:
        task: Dataclass of the task's arguments.
        joined: `CONTROL`, `ADAPTER` and `PROMPT` to the number of networks that take one.
        texts: True if the pipeline takes texts.
        estimates_depth: True if the pipeline computes the depth map itself.
    """
    if not texts:
        return (IMAGE_PROMPT,)
    known = [name for name in EXAMPLE_INPUTS if not (estimates_depth and name == DEPTH_MAP)]
    fields = getattr(task, "__dataclass_fields__", {}) if getattr(task, "shows_example", True) else {}
    own = [name for name in (*known, CONTROL) if name in fields]
    return (*own, *(name for name, count in joined.items() for _ in range(count)))


def make_example_inputs(
    names: Collection[str], height: int, width: int, scale: int = 1, seed: int | None = None
) -> dict[str, Any]:
    """Return arguments of a pipeline's call for an image of this size, under diffusers' names.

    Args:
        names: Those of `EXAMPLE_INPUTS` that the pipeline takes: "image" is an orange disc on a gradient of blue, of
            "mask_image" the middle is white, "depth_map" is nearest in the middle, and "strength" is 1, so that every
            step is run; `ORIGINAL`, which is the disc too; `CONTROL` once for each ControlNet and `ADAPTER` once for
            each T2I-Adapter, which get the disc's outline, white on black; `PROMPT` once for each IP-Adapter, which
            gets the disc. Or `IMAGE_PROMPT`.
        height: Pixels of the result.
        width: Pixels of the result.
        scale: Pixels of the result to a pixel of an image.
        seed: Draws other discs on another ground instead, the same for the same seed.
    """
    if scale != 1:
        return make_example_inputs(names, height // scale, width // scale, seed=seed)
    if IMAGE_PROMPT in names:
        return {**make_example_inputs(["image"], height, width, seed=seed), "height": height, "width": width}
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    down, across = down / height - 0.5, across / width - 0.5
    drawing = _draw_disc(down, across) if seed is None else _draw_discs(down, across, np.random.default_rng(seed))
    joined = _joined(drawing, names)
    if CONTROL_MASK in names:
        joined[CONTROL_MASK] = _middle(down, across)
    if CONTROL_MODE in names:
        count = sum(name == CONTROL for name in names)
        joined[CONTROL_MODE] = 0 if count == 1 else [0] * count
    if "image" not in names:
        return {"height": height, "width": width, **joined}
    strength = {"strength": 1.0, **joined} if "strength" in names else joined
    image = drawing.image()
    if ORIGINAL in names:
        strength[ORIGINAL] = image
    if DEPTH_MAP in names:
        return {"image": image, DEPTH_MAP: np.asarray(-(down**2) - across**2, np.float32)[None], **strength}
    if "mask_image" not in names:
        return {"image": image, **strength}
    return {"image": image, "mask_image": _middle(down, across), "height": height, "width": width, **strength}


def _middle(down: FloatArray, across: FloatArray) -> "Image":
    """Draw a mask whose middle is white."""
    from PIL.Image import fromarray

    middle = (np.abs(down) < 0.25) & (np.abs(across) < 0.25)
    return fromarray(np.where(middle, 255, 0).astype(np.uint8))


def make_example_arrays(shapes: Mapping[str, tuple[int, ...]], seed: int | None = None) -> dict[str, Any]:
    """Return float32 arrays by the names of arguments: normal numbers, ones for masks of tokens, 0..1 for `HINT`.

    Args:
        shapes: Name of an argument to the shape of its array.
        seed: Draws other numbers, the same for the same seed.
    """
    generator = np.random.default_rng(0 if seed is None else seed)

    def draw(name: str, shape: tuple[int, ...]) -> FloatArray:
        if name.endswith("attention_mask"):
            return np.ones(shape, np.float32)
        values = generator.random(shape) if name == HINT else generator.standard_normal(shape)
        return values.astype(np.float32)

    return {name: draw(name, shape) for name, shape in shapes.items()}


class _Drawing(NamedTuple):
    """Discs on a ground.

    Attributes:
        pixels: float32 (H, W, 3) in 0..1.
        edges: True on the edges of the discs, (H, W).
    """

    pixels: FloatArray
    edges: npt.NDArray[np.bool_]

    def image(self) -> "Image":
        """Return the drawing."""
        from PIL.Image import fromarray

        return fromarray(np.round(self.pixels * 255).astype(np.uint8))

    def outline(self) -> "Image":
        """Return the edges, white on black."""
        from PIL.Image import fromarray

        return fromarray(np.where(self.edges, 255, 0).astype(np.uint8)).convert("RGB")


def _joined(drawing: _Drawing, names: Collection[str]) -> dict[str, Any]:
    """Return the arguments for joined networks: one image, or a list of several; for IP-Adapters lists in a list."""
    counts = {kind: sum(name == kind for name in names) for kind in (CONTROL, ADAPTER, PROMPT)}
    prompts = {PROMPT: [[drawing.image()]] * counts[PROMPT]} if counts[PROMPT] else {}
    shown = {kind: counts[kind] for kind in (CONTROL, ADAPTER) if counts[kind]}
    if not shown:
        return prompts
    outline = drawing.outline()
    return {**{kind: outline if count == 1 else [outline] * count for kind, count in shown.items()}, **prompts}


def _draw_disc(down: FloatArray, across: FloatArray) -> _Drawing:
    """Draw the orange disc; its outline is a ring of three tenths of the image."""
    ground = np.stack([0.3 + 0.4 * across, 0.5 + 0.4 * down, 0.8 - 0.2 * across], axis=-1)
    disc = np.where((down**2 + across**2 < 0.09)[..., None], np.asarray([0.95, 0.55, 0.15], np.float32), ground)
    return _Drawing(disc, np.abs(np.sqrt(down**2 + across**2) - 0.3) < 0.02)


def _draw_discs(down: FloatArray, across: FloatArray, generator: np.random.Generator) -> _Drawing:
    """Draw three discs on a ground with waves, all of random colours, sizes and places."""
    base, slope, tilt, wave = generator.random((4, 3)).astype(np.float32)
    turns, phase = generator.uniform(-8, 8, 2), generator.uniform(0, 6.3, 3)
    ripple = np.sin((2 * np.pi * (turns[0] * down + turns[1] * across))[..., None] + phase)
    pixels = base + (slope - 0.5) * down[..., None] + (tilt - 0.5) * across[..., None] + 0.3 * wave * ripple
    edges = np.zeros(down.shape, bool)
    for _ in range(3):
        middle, radius = generator.uniform(-0.4, 0.4, 2), generator.uniform(0.08, 0.35)
        distance = np.hypot(down - middle[0], across - middle[1])
        pixels = np.where((distance < radius)[..., None], generator.random(3), pixels)
        edges |= np.abs(distance - radius) < 0.02
    return _Drawing(np.clip(pixels, 0, 1).astype(np.float32), edges)

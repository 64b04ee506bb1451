"""Writes the settings of an image as AUTOMATIC1111's web UI does, so that other programs read them.

The form is `create_infotext` of its `modules/processing.py`: prompt, negative prompt, then "Steps: 20, Sampler: Euler".
"""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["format_parameters"]


def format_parameters(settings: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Return the text for the key "parameters" of an image.

    Args:
        settings: As for `save_image`; of the prompts and seeds of a batch the image's own are taken. "sampler" and
            "schedule_type" are names of user interfaces, as `sampler_labels` returns them.
        size: Width and height in pixels.
    """
    index = settings.get("image_index")
    index = index if isinstance(index, int) else 0
    per_prompt = settings.get("num_images_per_prompt")
    turn = index // per_prompt if isinstance(per_prompt, int) and per_prompt > 0 else index
    lines = [str(_one_of(settings.get("prompt", ""), turn))]
    negative = _one_of(settings.get("negative_prompt"), turn)
    if negative:
        lines.append(f"Negative prompt: {negative}")
    pairs = _pairs({**settings, "seed": _one_of(settings.get("seed"), index)}, size)
    lines.append(", ".join(f"{label}: {_quote(value)}" for label, value in pairs.items() if value is not None))
    return "\n".join(lines).replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _one_of(value: Any, index: int) -> Any:
    """Return the entry of a list that belongs to one image, or a value that all images share."""
    return value[index] if isinstance(value, list) and index < len(value) else value


def _pairs(settings: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Labels and values in the order of the web UI; None is left out."""
    clip_skip, version = settings.get("clip_skip"), settings.get("diffoundry")
    model = settings.get("bundle")
    return {
        "Steps": settings.get("num_inference_steps"),
        "Sampler": settings.get("sampler", settings.get("scheduler")),
        "Schedule type": settings.get("schedule_type"),
        "CFG scale": settings.get("guidance_scale"),
        "Image CFG scale": settings.get("image_guidance_scale"),
        "Seed": settings.get("seed"),
        "Size": "x".join(map(str, size)),
        "Model hash": settings.get("model_hash"),
        "Model": model.removesuffix(".bundle") if isinstance(model, str) else None,
        "Denoising strength": settings.get("strength"),
        "Clip skip": clip_skip + 1 if isinstance(clip_skip, int) and clip_skip > 0 else None,
        "CFG rescale": settings.get("guidance_rescale") or None,
        "Eta": settings.get("eta") or None,
        "Version": f"diffoundry {version}" if version else None,
    }


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text

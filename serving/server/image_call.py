"""Turns the parameters of a request into the arguments of a pipeline and the form of the answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.schedulers import resolve_scheduler
from diffoundry.runtime.suggest import did_you_mean
from diffoundry.serving.lora_folder import LoraFolder
from diffoundry.serving.place_images import group_image_prompts, one_or_list
from diffoundry.serving.server.errors import ApiError, bad_parameter, from_error
from diffoundry.serving.server.limits import Limits
from diffoundry.serving.server.models import Model, find_model
from diffoundry.serving.server.parameter_table import CALL_ARGUMENTS, ENDPOINTS, IMAGES, NEUTRAL, PARAMETERS
from diffoundry.serving.server.parameters import read_value, unknown_parameter
from diffoundry.serving.server.read_images import ImageReader, open_mask
from diffoundry.serving.server.read_request import Body
from diffoundry.serving.taken_arguments import taken_arguments

__all__ = ["ImageCall", "prepare_call"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageCall:
    """One checked request.

    Attributes:
        endpoint: "generations", "edits" or "variations".
        model: The bundle.
        arguments: Of the pipeline's call.
        settings: Those that the image keeps beside the arguments of the run.
        loras: Path to scale.
        count: Number of images.
        size: Width and height of each in pixels.
        output_format: "png", "jpeg" or "webp".
        quality: As `encode_image`.
        urls: True if the answer has URLs.
        stream: True for events.
        previews: Number of partial images.
        user: The client's own name for its user, for the log; "" without.
    """

    endpoint: str
    model: Model
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    loras: Mapping[str, float]
    count: int
    size: tuple[int, int]
    output_format: str
    quality: int | None
    urls: bool
    stream: bool
    previews: int
    user: str


def prepare_call(
    endpoint: str, body: Body, models: Mapping[str, Model], loras: LoraFolder, limits: Limits
) -> ImageCall:
    """Check a request and decode its images. Takes the time of that, so it runs in a thread.

    Raises:
        ApiError: A parameter is unknown, or cannot be used.
    """
    values = _read_values(endpoint, body)
    model = find_model(models, values.pop("model", None))
    if endpoint not in model.endpoints():
        able = " or ".join(f"/v1/images/{name}" for name in model.endpoints())
        raise ApiError(
            400, f"model: {model.name} does not answer /v1/images/{endpoint}; use {able}", param="model",
            code="wrong_endpoint",
        )  # fmt: skip
    output = _take_output(values, limits)
    if model.pipeline.transparent and output["output_format"] == "jpeg":
        raise bad_parameter(
            "output_format", "got 'jpeg', expected 'png' or 'webp': this model makes transparent images"
        )
    try:
        arguments, settings = _arguments(endpoint, model, values, limits)
        texts = values.pop("loras", [])
        texts = [texts] if isinstance(texts, str) else texts
        chosen = _choose_loras(model, texts, loras)
        count, checked = model.pipeline.check_call(arguments)
    except DiffoundryError as error:
        raise from_error(error) from error
    height, width = checked.get("height"), checked.get("width")
    size = (int(width or 0), int(height or 0))
    _check_pixels(size, limits)
    settings |= {"lora": list(texts)} if texts else {}
    return ImageCall(
        endpoint=endpoint, model=model, arguments=arguments, settings=settings, loras=chosen, count=count, size=size,
        **output,
    )  # fmt: skip


def _read_values(endpoint: str, body: Body) -> dict[str, Any]:
    """Return the values that are known to an endpoint, each of its type.

    Raises:
        ApiError: A name or a value is not.
    """
    known = ENDPOINTS[endpoint]
    values: dict[str, Any] = {}
    for name, value in body.values.items():
        if name not in NEUTRAL and name not in known:
            raise _unknown(endpoint, name)
        if value is None:
            continue
        if name in NEUTRAL:
            _check_neutral(name, value)
        else:
            values[name] = read_value(PARAMETERS[name], value, typed=body.typed)
    if endpoint == "edits" and "image" not in values and "images" in values:  # as OpenAI names them in JSON
        values["image"] = values.pop("images")
    needed = {"generations": (), "edits": ("image", "prompt"), "variations": ("image",)}[endpoint]
    for name in needed:
        if name not in values:
            raise ApiError(400, f"{name}: got none, expected {PARAMETERS[name].expected()}", param=name, code="missing")
    return values


def _check_neutral(name: str, value: Any) -> None:
    """Refuse a value of OpenAI's that would mean something.

    Raises:
        ApiError: As said.
    """
    accepted, reason = NEUTRAL[name]
    if value not in accepted:
        words = f"expected {' or '.join(map(repr, accepted))}" if accepted else "expected none"
        raise bad_parameter(name, f"got {shorten(value)}, {words}: {reason}")


def _unknown(endpoint: str, name: str) -> ApiError:
    places = [f"/v1/images/{other}" for other, names in ENDPOINTS.items() if name in names]
    if places:
        return unknown_parameter(name, f"/v1/images/{endpoint} does not take it; use {' or '.join(places)}")
    if name in ("height", "width"):
        return unknown_parameter(name, "no such parameter; pass size, such as 512x768, width first")
    if name in ("num_images_per_prompt", "batch_size"):
        return unknown_parameter(name, "no such parameter; pass n")
    near = did_you_mean(name, [*ENDPOINTS[endpoint], *NEUTRAL])
    return unknown_parameter(name, f"no such parameter.{near or ' GET /openapi.json lists all'}")


def _take_output(values: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Move the parameters about the answer out of the values.

    Raises:
        ApiError: Some exclude each other.
    """
    form, quality = values.pop("output_format", "png"), values.pop("output_compression", None)
    if form == "png" and quality is not None:
        raise bad_parameter("output_compression", "got it with png, which loses nothing; leave it out, or pass webp")
    stream = values.pop("stream", False)
    names = [name for name in ("partial_images", "previews") if name in values]
    if len(names) > 1:
        raise bad_parameter("previews", "got partial_images as well, expected one of the two")
    previews = values.pop(names[0]) if names else 0
    if previews and not stream:
        raise bad_parameter(names[0], f"got {previews} without stream, expected true; pass stream")
    urls = values.pop("response_format", "b64_json") == "url"
    if urls and stream:
        raise bad_parameter("response_format", "got 'url' with stream, whose events hold images; leave it out")
    if urls and not limits.stored_bytes:
        raise bad_parameter("response_format", "got 'url', expected 'b64_json': this server stores no images")
    user = values.pop("user", "")
    return {
        "output_format": form, "quality": quality, "urls": urls, "stream": stream, "previews": previews,
        "user": values.pop("safety_identifier", "") or user,
    }  # fmt: skip


def _arguments(
    endpoint: str, model: Model, values: dict[str, Any], limits: Limits
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the call, and the settings that the image keeps in other words."""
    pipeline = model.pipeline
    taken = taken_arguments(pipeline)
    for name in values:
        own = name in CALL_ARGUMENTS or (name in IMAGES and name != "mask") or name == "prompt"
        if own and name not in taken:
            raise unknown_parameter(name, f"{model.name} has no such parameter; GET /v1/models/{model.name} lists all")
    reader = ImageReader(limits.image_pixels)
    arguments = {name: values[name] for name in ("prompt", *CALL_ARGUMENTS) if name in values}
    arguments |= {name: reader.read(name, values[name]) for name in IMAGES if name in values}
    _place_images(model, arguments)
    if "complex_human_instruction" in arguments:
        arguments["complex_human_instruction"] = [line for line in arguments["complex_human_instruction"] if line]
    arguments |= _size(values)
    if "n" in values:
        arguments[pipeline.image_count_argument] = values["n"]
    if "preset" in values:
        arguments = {**pipeline.preset(values["preset"]), **arguments}
    if pipeline.needs_prompt and "prompt" not in arguments:
        raise ApiError(400, f"prompt: got none for {endpoint}, expected a text", param="prompt", code="missing")
    settings = {name: value for name, value in arguments.items() if name not in IMAGES} | reader.names
    if "scheduler" in arguments:
        choice = resolve_scheduler(arguments["scheduler"], flow=not pipeline.scales_latents)
        settings["scheduler"] = choice.cls.__name__.removesuffix("Scheduler")
        settings |= {"scheduler_options": dict(choice.options)} if choice.options else {}
    return arguments, settings


def _place_images(model: Model, arguments: dict[str, Any]) -> None:
    """Bring images into the form that the pipeline takes.

    Raises:
        ApiError: Both kinds of masks.
    """
    for name in ("image", "image_reference", "control_image", "adapter_image"):
        if isinstance(arguments.get(name), list):
            arguments[name] = one_or_list(arguments[name])
    for name in ("images", "prior_image"):
        if name in arguments and not isinstance(arguments[name], list):
            arguments[name] = [arguments[name]]
    mask = arguments.pop("mask", None)
    if mask is not None:
        if "mask_image" in arguments:
            raise bad_parameter("mask", "got mask_image as well, expected one of the two")
        image = arguments["image"]
        first = image[0] if isinstance(image, list) else image
        arguments["mask_image"] = open_mask(mask, first.size)
    for name in ("ip_adapter_image", "ip_adapter_masks"):
        if name in arguments:
            given = arguments[name] if isinstance(arguments[name], list) else [arguments[name]]
            arguments[name] = group_image_prompts(model.pipeline, given)


def _size(values: Mapping[str, Any]) -> dict[str, int]:
    """Return height and width; nothing for "auto".

    Raises:
        ApiError: The text has another form.
    """
    size = values.get("size", "auto")
    if size == "auto":
        return {}
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if not found:
        raise bad_parameter("size", f"got {size!r}, expected WIDTHxHEIGHT in pixels such as 512x512, or auto")
    return {"height": int(found[2]), "width": int(found[1])}


def _choose_loras(model: Model, texts: list[str], folder: LoraFolder) -> dict[str, float]:
    if not texts:
        return {}
    if not isinstance(model.pipeline, DiffusionPipeline):
        raise bad_parameter("loras", f"{model.name} takes no LoRAs; leave it out")
    return folder.choose(texts)


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    """Refuse a result that is larger than the operator allows.

    Raises:
        ApiError: As said.
    """
    if size[0] * size[1] > limits.result_pixels:
        raise bad_parameter(
            "size", f"the result would have {size[0]} x {size[1]} pixels, expected at most {limits.result_pixels:,} "
            f"in all",
        )  # fmt: skip

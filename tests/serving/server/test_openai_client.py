"""OpenAI's own client against the server: its images are those of `diffoundry generate`, byte for byte."""

import asyncio
import base64
import io
import urllib.request

import numpy as np
import openai
import pytest
from PIL import Image

from diffoundry.runtime.cli.group import group

_FEW = {"seed": 3, "num_inference_steps": 3}

_WIDE = ("--width", 96, "--height", 64)


def _generate(bundle, path, *words):
    """Write an image with the command line, and return its bytes."""
    group.main(["generate", str(bundle), *map(str, words), "-o", str(path)], standalone_mode=False)
    return path.read_bytes()


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def _data(image):
    return base64.b64decode(image.b64_json)


def test_models_are_listed_with_what_they_can_do(client, model):
    (found,) = client.models.list().data
    assert (found.id, found.object, found.owned_by) == (model, "model", "diffoundry")
    assert found.endpoints == ["/v1/images/generations", "/v1/images/edits"]
    assert found.default_size == "64x64"
    assert {"guidance_scale", "mask", "scheduler"} <= set(found.parameters)
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError, match=r"model: got 'emojy', expected '.*'"):
        client.models.retrieve("emojy")


@pytest.mark.parametrize(
    ("suffix", "openai_arguments", "own", "words"),
    [
        ("png", {}, {"guidance_scale": 4.5, "negative_prompt": "ice"}, ["--guidance-scale", 4.5, "--negative", "ice"]),
        ("png", {"size": "96x64"}, {"scheduler": "dpmpp_2m_karras"}, [*_WIDE, "--scheduler", "dpmpp_2m_karras"]),
        ("webp", {"output_format": "webp"}, {"guidance_interval": [0.2, 0.8]}, ["--guidance-interval", "0.2:0.8"]),
        ("jpg", {"output_format": "jpeg"}, {"cache": "taylor:1"}, ["--cache", "taylor:1"]),
    ],
    ids=["png", "scheduler", "webp", "jpeg"],
)  # fmt: skip
def test_the_file_is_that_of_the_command_line(
    client, model, emoji_pipe, tmp_path, suffix, openai_arguments, own, words
):
    answer = client.images.generate(model=model, prompt="red apple", **openai_arguments, extra_body={**_FEW, **own})
    bundle = emoji_pipe.session.bundle.root
    expected = _generate(
        bundle, tmp_path / f"x.{suffix}", "red apple", "--seed", 3, "--steps", 3, *words
    )  # fmt: skip
    assert _data(answer.data[0]) == expected
    assert answer.size == openai_arguments.get("size", "64x64")
    assert answer.output_format == openai_arguments.get("output_format", "png")
    assert answer.data[0].seed == 3
    assert answer.created > 1_700_000_000


def test_several_images_of_a_seed_are_those_of_the_command_line(client, model, emoji_pipe, tmp_path):
    answer = client.images.generate(model=model, prompt="red apple", n=2, extra_body=_FEW)
    folder = tmp_path / "images/"
    folder.mkdir()
    group.main(
        ["generate", str(emoji_pipe.session.bundle.root), "red apple", "--seed", "3", "--steps", "3", "--num-images",
         "2", "-o", f"{folder}/"], standalone_mode=False,
    )  # fmt: skip
    expected = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert [_data(image) for image in answer.data] == expected


def test_a_part_is_generated_again_where_the_mask_is_transparent(client, model, emoji_pipe):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (0, 0, 32, 64))
    answer = client.images.edit(
        model=model, prompt="red apple", image=("in.png", _png(image)), mask=("mask.png", _png(mask)),
        extra_body={**_FEW, "strength": 0.8, "guidance_interval": [0.0, 0.5]},
    )  # fmt: skip
    arguments = {**_FEW, "strength": 0.8, "guidance_interval": (0.0, 0.5)}
    expected = emoji_pipe("red apple", image=image, mask_image=white, **arguments).images[0]
    np.testing.assert_array_equal(_pixels(_data(answer.data[0])), np.asarray(expected))


def test_an_edit_in_json_holds_the_image_itself(client, model, emoji_pipe):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    text = f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"
    body = {"model": model, "prompt": "red apple", "image": [{"image_url": text}], "strength": 0.5, **_FEW}
    answer = client.post("/images/edits", body=body, cast_to=object)
    expected = emoji_pipe("red apple", image=image, strength=0.5, **_FEW).images[0]
    np.testing.assert_array_equal(_pixels(base64.b64decode(answer["data"][0]["b64_json"])), np.asarray(expected))
    images = {**body, "images": body["image"], "image": None}  # as OpenAI names them
    assert client.post("/images/edits", body=images, cast_to=object)["data"] == answer["data"]


def _png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_url_serves_the_same_file_until_it_expires(client, running, model):
    whole = client.images.generate(model=model, prompt="red apple", extra_body=_FEW)
    answer = client.images.generate(model=model, prompt="red apple", response_format="url", extra_body=_FEW)
    url = answer.data[0].url
    assert answer.data[0].b64_json is None
    assert url.startswith(f"{running.url}/v1/images/files/")
    assert len(url.rpartition("/")[2]) >= 43  # 256 bits
    with urllib.request.urlopen(url) as response:
        assert response.headers["Content-Type"] == "image/png"
        assert response.read() == _data(whole.data[0])
    running.state.store.clock = lambda: 1e12
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url)


def test_a_stream_has_previews_and_ends_with_the_same_image(client, model, emoji_pipe):
    whole = client.images.generate(model=model, prompt="red apple", extra_body={"seed": 3, "num_inference_steps": 6})
    events = list(
        client.images.generate(
            model=model, prompt="red apple", stream=True, partial_images=2,
            extra_body={"seed": 3, "num_inference_steps": 6},
        )
    )  # fmt: skip
    partial = "image_generation.partial_image"
    assert [event.type for event in events] == [partial, partial, "image_generation.completed"]
    assert [type(event) for event in events] == [
        openai.types.ImageGenPartialImageEvent, openai.types.ImageGenPartialImageEvent,
        openai.types.ImageGenCompletedEvent,
    ]  # fmt: skip
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert _data(events[-1]) == _data(whole.data[0])
    run = emoji_pipe.start("red apple", seed=3, num_inference_steps=6)
    previews = [np.asarray(run.preview()[0]) for _ in run]
    for event in events[:2]:
        assert any(np.array_equal(_pixels(_data(event)), one) for one in previews[:-1])
    assert events[-1].usage.total_tokens == 0


def test_edits_are_streamed_under_their_own_names(client, model):
    image = ("in.png", _png(Image.new("RGB", (64, 64), "red")))
    events = list(
        client.images.edit(
            model=model, prompt="x", image=image, stream=True, partial_images=1, extra_body={**_FEW, "strength": 1}
        )
    )  # fmt: skip
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_the_asynchronous_client_generates_several_at_once(running, model, client):
    async def generate():
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as several:
            calls = [
                several.images.generate(model=model, prompt="red apple", extra_body={**_FEW, "seed": seed})
                for seed in range(4)
            ]
            answers = await asyncio.gather(*calls)
            stream = await several.images.generate(model=model, prompt="red apple", stream=True, extra_body=_FEW)
            return answers, [event.type async for event in stream]

    answers, types = asyncio.run(generate())
    assert types == ["image_generation.completed"]
    for seed, answer in enumerate(answers):
        alone = client.images.generate(model=model, prompt="red apple", extra_body={**_FEW, "seed": seed})
        assert _data(answer.data[0]) == _data(alone.data[0])


def test_a_prompt_that_is_cut_off_is_reported(client, model):
    answer = client.images.generate(model=model, prompt="red apple " * 60, extra_body={"num_inference_steps": 1})
    assert "this part of the prompt is cut off: " in answer.warnings[0]


def test_compression_is_the_quality_of_the_file(client, model):
    sizes = [
        len(
            _data(
                client.images.generate(
                    model=model, prompt="x", output_format="jpeg", output_compression=quality, extra_body=_FEW
                ).data[0]
            )
        )
        for quality in (10, 90)
    ]
    assert sizes[0] < sizes[1]

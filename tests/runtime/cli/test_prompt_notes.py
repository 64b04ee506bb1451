"""Notes on prompts in the forms of other programs, on unused words, and on prompts that the demo model cannot know."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.cli.prompt_notes import prompt_notes, size_note


@pytest.fixture(scope="module")
def pipe(emoji_bundle):
    return load(emoji_bundle)


def test_forms_of_other_programs(pipe):
    lora = "'<lora:x:0.8>' is read as text; load the file with --lora x.safetensors:0.8 instead"
    weight = "'(fox:1.3)' is read as text; pass --prompt-weighting to read it as a weight"
    for settings, notes in (
        ({"prompt": "a fox (emoji), [fox] :3"}, []),
        ({"prompt": ["a fox", "a fox <lora:x:0.8>"], "negative_prompt": "<LORA:y>"}, [
            lora, "'<LORA:y>' is read as text; load the file with --lora y.safetensors instead",
        ]),
        ({"prompt": "a (fox:1.3)"}, [weight]),
        ({"prompt": "a (fox:1.3)", "prompt_weighting": True}, []),
        ({"prompt": "a fox", "negative_prompt": "embedding:x"}, [
            "'embedding:x' is read as text; load the file with --embedding x.safetensors:x and write 'x' instead"
        ]),
        ({"prompt": "a [fox:cat:0.5]"}, ["'[fox:cat:0.5]' is read as text; prompt editing is not supported"]),
        ({"prompt": "a fox <hypernet:x:1>"}, ["'<hypernet:x:1>' is read as text; hypernetworks are not supported"]),
    ):  # fmt: skip
        assert [note for note in prompt_notes(pipe, settings) if "demo model" not in note] == notes


def test_the_demo_model_says_what_it_does_not_know(pipe):
    (note,) = prompt_notes(pipe, {"prompt": ["a red apple", "a photo of an astronaut riding a horse"]})
    text, _, file = note.rpartition(" The labels are in ")
    assert text == (
        "this demo model knows 263 labels, such as 'red apple', 'rocket' and 'cat face', and no sentences; it does not "
        "know 'photo', 'astronaut', 'riding'."
    )
    assert len(json.loads(Path(file).read_text(encoding="utf-8"))) == 263
    assert prompt_notes(pipe, {"prompt": "an emoji of a Birthday Cake <cat>"}) == []


def test_a_size_far_above_the_trained_one(pipe):
    assert size_note(pipe, 128, 128) is None
    assert size_note(pipe, 4096, 4096) == (
        "this model was trained with 64 x 64 pixels; 4096 x 4096 are 4096 times as many, which takes at least as many "
        "times as long, and things may repeat in the image"
    )


def test_an_embedding_without_a_word_gets_the_name_of_its_file(emoji_bundle, pipe, tmp_path):
    """A1111 writes "emb_params". The image is that of the library with the word, and differs from one without."""
    width = pipe.session.adapters("text_encoder").width
    file = tmp_path / "EasyNegative.safetensors"
    save_file({"emb_params": torch.randn(2, width, generator=torch.Generator().manual_seed(0))}, file)

    def generate(name, *options):
        words = [str(emoji_bundle), "a fox", *options, "--steps", "2", "--seed", "0", "-o", str(tmp_path / name)]
        result = CliRunner().invoke(command, words)
        assert result.exit_code == 0, result.output
        return np.asarray(Image.open(tmp_path / name)), result.output.replace("\n", " ")

    image, output = generate("x.png", "--embedding", str(file), "--negative", "EasyNegative")
    assert "the word EasyNegative loads 2 vectors" in output
    assert "warning" not in output
    library = load(emoji_bundle)
    library.embeddings.load(file, token="EasyNegative")
    asked = {"negative_prompt": "EasyNegative", "num_inference_steps": 2, "seed": 0}
    np.testing.assert_array_equal(image, np.asarray(library("a fox", **asked).images[0]))
    plain, _ = generate("plain.png", "--negative", "EasyNegative")
    assert not np.array_equal(image, plain)
    _, output = generate("y.png", "--embedding", str(file))
    warning = (
        "warning: no prompt contains the word 'EasyNegative', so its embedding has no effect; write it into a prompt"
    )
    assert warning in output

"""Textual inversion against diffusers: ids, embeddings, latents after every step."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffoundry.runtime.errors import InputError

TOLERANCE = 2e-5  # as of LoRAs


@pytest.fixture
def saved(tmp_path):
    """Factory: a file with random vectors for a word."""

    def save(word, *shape, seed=0):
        path = tmp_path / f"{word.strip('<>')}.safetensors"
        save_file({word: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))}, path)
        return path

    return save


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(opened, theirs, saved, steps, error, target):
    one, three = saved("<cat>", 32), saved("<dog>", 3, 32, seed=1)
    ours = opened(target)
    prompts = ("a <cat> and a <dog>", "<dog><dog>, A <CAT>", "a red apple")
    before = [steps(ours, prompt) for prompt in prompts]
    theirs.load_textual_inversion(str(one))
    theirs.load_textual_inversion(str(three), token="<puppy>")
    assert ours.load_textual_inversion(one) == ("<cat>", 1)
    assert ours.load_textual_inversion(three, token="<puppy>") == ("<puppy>", 3)
    for prompt in (*prompts, "a <puppy> beside <cat>"):
        assert error(steps(ours, prompt), steps(theirs, prompt)) < TOLERANCE
    assert error(steps(ours, prompts[0]), before[0]) > 1e-3
    ours.unload_textual_inversion()
    for prompt, expected in zip(prompts, before, strict=True):
        assert np.array_equal(steps(ours, prompt)[1], expected[1])


def test_ids_are_those_of_transformers(opened, theirs, saved):
    ours = opened()
    path = saved("<cat>", 2, 32)
    theirs.load_textual_inversion(str(path))
    ours.load_textual_inversion(path)
    for prompt in ("<cat>", "a<cat>b", "<CAT> <cat>_1", "x " * 80 + "<cat>", ""):
        text = theirs.maybe_convert_prompt(prompt, theirs.tokenizer)
        expected = theirs.tokenizer([text], padding="max_length", max_length=77, truncation=True).input_ids
        np.testing.assert_array_equal(ours.encoders[0].tokenizer([prompt]).input_ids, expected)


def test_beside_a_lora(opened, theirs, saved, make_lora, steps, error, tmp_path):
    lora, path = make_lora(tmp_path / "x.safetensors"), saved("<cat>", 32)
    ours = opened()
    ours.load_lora(lora)
    ours.load_textual_inversion(path)
    theirs.load_textual_inversion(str(path))
    theirs.load_lora_weights(str(lora))
    assert error(steps(ours, "a <cat>"), steps(theirs, "a <cat>")) < TOLERANCE


def test_refusals(opened, saved, tmp_path):
    ours = opened()
    with pytest.raises(InputError, match=r"tensor '<cat>': got shape \(768,\), expected \(32,\) or \(count, 32\)"):
        ours.load_textual_inversion(saved("<cat>", 768))
    path = saved("<cat>", 32)
    with pytest.raises(InputError, match="token: got ' ', expected a word"):
        ours.load_textual_inversion(path, token=" ")
    with pytest.raises(InputError, match="token 'a</w>': is in the tokenizer's vocabulary already"):
        ours.load_textual_inversion(path, token="a</w>")
    ours.load_textual_inversion(path)
    with pytest.raises(InputError, match="token '<cat>': is loaded already"):
        ours.load_textual_inversion(path)
    both = tmp_path / "both.safetensors"
    save_file({"clip_l": torch.ones(1, 32), "clip_g": torch.ones(1, 64)}, both)
    with pytest.raises(InputError, match="got 2 tensors .*'clip_g'.*, expected one, named as the token"):
        ours.load_textual_inversion(both)

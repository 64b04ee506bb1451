"""Textual inversion against diffusers: ids, embeddings, latents after every step."""

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffoundry.runtime import load
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


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_every_step_is_diffusers(opened, theirs, saved, steps, error, target):
    one, three = saved("<cat>", 32), saved("<dog>", 3, 32, seed=1)
    ours = opened(target)
    prompts = ("a <cat> and a <dog>", "<dog><dog>, A <CAT>", "a red apple")
    before = [steps(ours, prompt) for prompt in prompts]
    theirs.load_textual_inversion(str(one))
    theirs.load_textual_inversion(str(three), token="<puppy>")
    assert ours.embeddings.load(one) == ("<cat>", 1)
    assert ours.embeddings.load(three, token="<puppy>") == ("<puppy>", 3)
    for prompt in (*prompts, "a <puppy> beside <cat>"):
        assert error(steps(ours, prompt), steps(theirs, prompt)) < TOLERANCE
    assert error(steps(ours, prompts[0]), before[0]) > 1e-3
    ours.embeddings.unload()
    for prompt, expected in zip(prompts, before, strict=True):
        assert np.array_equal(steps(ours, prompt)[1], expected[1])


def test_ids_are_those_of_transformers(opened, theirs, saved):
    ours = opened()
    path = saved("<cat>", 2, 32)
    theirs.load_textual_inversion(str(path))
    ours.embeddings.load(path)
    for prompt in ("<cat>", "a<cat>b", "<CAT> <cat>_1", "<cat> <cat>_1", "x " * 80 + "<cat>", ""):
        # in lower case, because diffusers uses only the first vector of a word with capitals
        text = theirs.maybe_convert_prompt(prompt.lower(), theirs.tokenizer)
        expected = theirs.tokenizer([text], padding="max_length", max_length=77, truncation=True).input_ids
        np.testing.assert_array_equal(ours.text_encoders[0].tokenizer([prompt]).input_ids, expected)


def test_beside_a_lora(opened, theirs, saved, make_lora, steps, error, tmp_path):
    lora, path = make_lora(tmp_path / "x.safetensors"), saved("<cat>", 32)
    ours = opened()
    ours.loras.load(lora)
    ours.embeddings.load(path)
    theirs.load_textual_inversion(str(path))
    theirs.load_lora_weights(str(lora))
    assert error(steps(ours, "a <cat>"), steps(theirs, "a <cat>")) < TOLERANCE


@pytest.fixture(scope="module")
def xl_bundle(exported, tiny_sd_checkpoint):
    return exported(tiny_sd_checkpoint("xl"), target="onnxruntime,openvino")


@pytest.fixture
def for_two(tmp_path):
    """Factory: a file with random vectors for the two text encoders of the tiny Stable Diffusion XL."""

    def save(name, *counts, widths=(32, 48), keys=("clip_l", "clip_g")):
        made = torch.Generator().manual_seed(len(name))
        tensors = {
            key: torch.randn(count, width, generator=made)
            for key, count, width in zip(keys, counts, widths, strict=True)
        }
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_two_text_encoders(xl_bundle, tiny_sd_checkpoint, for_two, steps, error, target):
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(tiny_sd_checkpoint("xl"))
    theirs.set_progress_bar_config(disable=True)
    ours = load(xl_bundle, target=target)
    before = steps(ours, "a <cat> and a <dog>")
    for path, word in ((for_two("one", 1, 1), "<cat>"), (for_two("three", 3, 3), "<dog>")):
        tensors = load_file(path)
        theirs.load_textual_inversion(
            {word: tensors["clip_l"]}, text_encoder=theirs.text_encoder, tokenizer=theirs.tokenizer
        )
        theirs.load_textual_inversion(
            {word: tensors["clip_g"]}, text_encoder=theirs.text_encoder_2, tokenizer=theirs.tokenizer_2
        )
        assert ours.embeddings.load(path, token=word) == (word, len(tensors["clip_l"]))
    for prompt in ("a <cat> and a <dog>", "<dog><dog>, a red apple", "a red apple"):
        assert error(steps(ours, prompt), steps(theirs, prompt)) < TOLERANCE
    assert error(steps(ours, "a <cat> and a <dog>"), before) > 1e-3
    ours.embeddings.unload()
    assert np.array_equal(steps(ours, "a <cat> and a <dog>")[1], before[1])


def test_refusals_of_two_text_encoders(xl_bundle, saved, for_two):
    ours = load(xl_bundle)
    one = saved("<cat>", 32)
    with pytest.raises(InputError, match=r"got 1 tensors \('<cat>'\), expected clip_l and clip_g for text_encoder and"):
        ours.embeddings.load(one, token="<cat>")
    with pytest.raises(InputError, match="token: got none, expected the word for .*both, whose tensors do not name it"):
        ours.embeddings.load(for_two("both", 1, 1))
    with pytest.raises(InputError, match="got 2 in 'clip_l', 1 in 'clip_g', expected as many vectors for each"):
        ours.embeddings.load(for_two("uneven", 2, 1), token="<cat>")
    with pytest.raises(InputError, match=r"tensor 'clip_g': got shape \(1, 64\), expected \(48,\) or \(count, 48\)"):
        ours.embeddings.load(for_two("wide", 1, 1, widths=(32, 64)), token="<cat>")
    ours.embeddings.load(for_two("both", 1, 1), token="<cat>")
    with pytest.raises(InputError, match="token '<cat>' is loaded already"):
        ours.embeddings.load(for_two("both", 1, 1), token="<cat>")


def test_refusals(opened, saved, tmp_path):
    ours = opened()
    for name in ("emb_params", "*", "clip_l"):
        with pytest.raises(InputError, match=r"token: got none, expected the word for .*, whose tensors do not"):
            ours.embeddings.load(saved(name, 32))
    assert ours.embeddings.load(saved("emb_params", 2, 32), token="EasyNegative") == ("EasyNegative", 2)
    with pytest.raises(InputError, match=r"tensor '<cat>': got shape \(768,\), expected \(32,\) or \(count, 32\)"):
        ours.embeddings.load(saved("<cat>", 768))
    path = saved("<cat>", 32)
    with pytest.raises(InputError, match="token: got ' ', expected a word"):
        ours.embeddings.load(path, token=" ")
    with pytest.raises(InputError, match="token 'a</w>': is in the tokenizer's vocabulary already"):
        ours.embeddings.load(path, token="a</w>")
    ours.embeddings.load(path)
    with pytest.raises(InputError, match="token '<cat>' is loaded already"):
        ours.embeddings.load(path)
    both = tmp_path / "both.safetensors"
    save_file({"clip_l": torch.ones(1, 32), "clip_g": torch.ones(1, 64)}, both)
    with pytest.raises(InputError, match="got 2 tensors .*'clip_g'.*, expected one, named as the token"):
        ours.embeddings.load(both)

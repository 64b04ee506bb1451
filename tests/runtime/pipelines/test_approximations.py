"""Guidance in some of the steps, and caches: against loops made of diffusers' networks, schedulers and guiders."""

import numpy as np
import pytest
import torch
from approximated_loops import PROMPT, SETTINGS, STEPS, near, trajectory
from approximated_loops import expected_loop as expected
from diffusers.guiders import ClassifierFreeGuidance

from diffoundry.runtime import load
from diffoundry.runtime.checks.approximations import CacheChoice, parse_cache
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.approximations.caches import wiener_filter
from diffoundry.runtime.pipelines.row_norm_guidance import RowNormGuidance
from diffoundry.runtime.pipelines.truncated_guidance import TruncatedGuidance


@pytest.mark.slow_cases("interval[12]")
@pytest.mark.parametrize("interval", [(0.0, 0.6), (0.2, 0.8), (0.5, 1.0)])
def test_guidance_runs_in_the_steps_of_diffusers_guiders(emoji, emoji_diffusers, interval):
    guider = ClassifierFreeGuidance(guidance_scale=4.0, start=interval[0], stop=interval[1])

    def guide(index, text, empty):
        guider.set_state(step=index, num_inference_steps=STEPS, timestep=torch.tensor(0))
        return guider.forward(text(), empty() if guider.num_conditions == 2 else None).pred

    ours, rows = trajectory(emoji, guidance_interval=interval)
    near(ours, expected(emoji_diffusers, guide))
    guided = range(int(interval[0] * STEPS), int(interval[1] * STEPS))
    assert rows == [2 if index in guided else 1 for index in range(STEPS)]


def limited(prediction, conditional):
    """`cfg_normalization` of `ZImagePipeline`, of 0.9."""
    own, new = (torch.linalg.vector_norm(one) for one in (conditional, prediction))
    return prediction * (own * 0.9 / new) if new > own * 0.9 else prediction


def normalized(prediction, conditional):
    """`cfg_normalization` of `Lumina2Pipeline`."""
    own, new = (torch.norm(one, dim=-1, keepdim=True) for one in (conditional, prediction))
    return prediction * (own / new)


@pytest.mark.parametrize(
    ("guidance", "change", "ends"),
    [
        (TruncatedGuidance(scale=3.0, largest=0.9), limited, 10),
        (TruncatedGuidance(scale=3.0, largest=0.9, end=0.5), limited, 5),
        (RowNormGuidance(scale=3.0, normalizes=True, steps=STEPS, until=0.5), normalized, 6),
    ],
    ids=["truncated", "truncated and ended", "norms of rows"],
)
def test_other_guidance_runs_in_the_steps_of_diffusers_guiders(
    emoji, emoji_diffusers, monkeypatch, guidance, change, ends
):
    """Each with the formula of its pipeline; steps need both the interval and the guidance's own rule."""
    own = isinstance(guidance, TruncatedGuidance)
    guider = ClassifierFreeGuidance(guidance_scale=3.0, start=0.2, stop=0.9, use_original_formulation=own)
    monkeypatch.setattr(emoji.family, "choose_guidance", lambda *_: guidance)

    def guide(index, text, empty):
        guider.set_state(step=index, num_inference_steps=STEPS, timestep=torch.tensor(0))
        conditional = text()
        if guider.num_conditions == 1 or index >= ends:
            return conditional
        return change(guider.forward(conditional, empty()).pred, conditional)

    ours, rows = trajectory(emoji, guidance_interval=(0.2, 0.9))
    near(ours, expected(emoji_diffusers, guide))
    assert rows == [2 if index in range(2, ends) else 1 for index in range(STEPS)]


def polynomial(known, index):
    """NumPy's least squares through as many points as the polynomial needs, in float64."""
    indices, values = zip(*known, strict=True)
    shape = values[0].shape
    fitted = np.polyfit(indices, np.stack([value.numpy().ravel() for value in values]).astype(float), len(known) - 1)
    return torch.from_numpy(np.polyval(fitted, index).astype(np.float32).reshape(shape))


@pytest.mark.slow_cases("taylor:1:*")
@pytest.mark.parametrize(
    ("cache", "called", "order", "guidance_order"),
    [
        ("taylor:1", {0, 1, 2, 4, 6, 8, 9, 10, 11}, 1, 1),
        ("taylor:2:interval=4:final=1", {0, 1, 2, 4, 8, 11}, 2, 2),
        ("taylor:1:interval=3:final=2:guidance-order=0", {0, 1, 3, 6, 9, 10, 11}, 1, 0),
    ],
)
def test_forecasts_are_polynomials(emoji, emoji_diffusers, cache, called, order, guidance_order):
    texts, differences = [], []

    def guide(index, text, empty):
        if index in called:
            texts.append((index, text()))
            differences.append((index, texts[-1][1] - empty()))
            conditional, difference = texts[-1][1], differences[-1][1]
        else:
            conditional = polynomial(texts[-order - 1 :], index)
            difference = polynomial(differences[-guidance_order - 1 :], index)
        return conditional - difference + 4.0 * difference

    ours, rows = trajectory(emoji, cache=cache)
    near(ours, expected(emoji_diffusers, guide))
    assert rows == [2] * len(called)


def test_the_difference_of_guidance_is_forecast(emoji, emoji_diffusers):
    full, differences = {0, 3, 6, 9, 10, 11}, []

    def guide(index, text, empty):
        conditional = text()
        if index in full:
            differences.append((index, conditional - empty()))
        difference = differences[-1][1] if index in full else polynomial(differences[-2:], index)
        return conditional - difference + 4.0 * difference

    ours, rows = trajectory(emoji, cache="guidance:3")
    near(ours, expected(emoji_diffusers, guide))
    assert rows == [2 if index in full else 1 for index in range(STEPS)]


def test_a_gate_by_change(emoji):
    exact, _ = trajectory(emoji)
    always, rows = trajectory(emoji, cache="sea:0")
    assert rows == [2] * STEPS
    assert all(map(np.array_equal, always, exact))
    counts = [len(trajectory(emoji, cache=f"sea:{threshold}:final=1")[1]) for threshold in (0.2, 0.5, 1.5, 1000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 3  # two for the polynomial, and the last
    assert STEPS > counts[1] > 3


def test_the_wiener_filter_is_the_best_linear_one():
    """Of samples with the power that it assumes, no multiple of the result is nearer to the clean ones."""
    rng, size = np.random.default_rng(0), 32
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size)[None] ** 2
    power = 1 / np.maximum(squared, 1 / size**2)
    spectrum = np.sqrt(power / power.mean())
    clean = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((64, 4, size, size))) * spectrum, s=(size, size))
    noisy = 0.8 * clean + 0.6 * rng.standard_normal(clean.shape)
    filtered = wiener_filter(noisy.astype(np.float32), 0.8, 0.6)
    error = np.square(filtered - 0.8 * clean).mean()
    assert error < 0.5 * np.square(noisy - 0.8 * clean).mean()
    for factor in (0.97, 1.03):
        assert np.square(factor * filtered - 0.8 * clean).mean() > error
    np.testing.assert_allclose(wiener_filter(noisy.astype(np.float32), 1.0, 0.0), noisy, atol=1e-5)
    row = noisy.reshape(64, -1).astype(np.float32)
    assert wiener_filter(row, 0.8, 0.6) is row


def test_nothing_is_left_of_other_runs(emoji):
    """Two runs in turns and a cancelled one change nothing in a third."""
    caches = ("taylor:1:interval=3", "sea:0.5", "guidance:3")
    alone = [trajectory(emoji, cache=cache)[0] for cache in caches]
    cancelled = iter(emoji.start(PROMPT, **{**SETTINGS, "seed": 9}, cache="sea:0.5"))
    runs = [iter(emoji.start(PROMPT, **SETTINGS, cache=cache)) for cache in caches]
    made = [[] for _ in runs]
    for index in range(STEPS):
        if index < 5:
            next(cancelled)
        for run, latents in zip(runs, made, strict=True):
            latents.append(next(run).latents)
    for ours, theirs in zip(made, alone, strict=True):
        assert all(map(np.array_equal, ours, theirs))


def test_a_batch_with_rescaled_guidance_of_another_scheduler(emoji):
    more = {"guidance_rescale": 0.7, "scheduler": "EulerDiscrete", "num_images_per_prompt": 2, "seed": [3, 4]}
    exact, _ = trajectory(emoji, **more)
    for arguments in ({"cache": "taylor:1:interval=3"}, {"cache": "sea:0.5"}, {"guidance_interval": (0.0, 1.0)}):
        got, _ = trajectory(emoji, **more, **arguments)
        assert got[-1].shape == exact[-1].shape
        assert np.abs(got[-1] - exact[-1]).max() < 0.1 * np.abs(exact[-1]).max()


def same_without_guidance(pipe, **arguments):
    """An interval that is empty in so few steps is a run without guidance, bit for bit."""
    few = {"num_inference_steps": 3, "seed": 0, "output_type": "latent", **arguments}
    got = pipe(PROMPT, guidance_scale=5.0, guidance_interval=(0.0, 0.1), **few).images
    np.testing.assert_array_equal(got, pipe(PROMPT, guidance_scale=1.0, **few).images)


@pytest.mark.slow
def test_controlnets_image_prompts_and_masks(controlled_bundle, image_prompt_bundle, emoji, apple):
    same_without_guidance(emoji, image=apple, strength=1.0)
    mask = np.zeros((64, 64), np.float32)
    mask[20:40] = 1.0
    same_without_guidance(emoji, image=apple, mask_image=mask, strength=1.0)
    same_without_guidance(load(controlled_bundle()), control_image=apple)
    prompted = load(image_prompt_bundle())
    names = len(prompted.image_prompts.names)
    same_without_guidance(prompted, ip_adapter_image=[apple] * names)


def test_stable_diffusion_3(portable_bundle):
    pipe = load(portable_bundle("sd3"))
    same_without_guidance(pipe, height=64, width=64)
    few = {"num_inference_steps": 6, "seed": 0, "output_type": "latent", "height": 64, "width": 64}
    exact = pipe(PROMPT, **few).images
    got = pipe(PROMPT, **few, cache="taylor:1:final=1").images
    assert 0 < np.abs(got - exact).max() < np.abs(exact).max()
    whole = pipe(PROMPT, **few, cache="taylor:1:final=1", skip_guidance_layers=[0]).images
    assert np.isfinite(whole).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"cache": "deepest:3"},
            "cache: got 'deepest:3', expected taylor:ORDER, sea:THRESHOLD, guidance:INTERVAL, deep:INTERVAL or",
        ),
        ({"cache": 3}, "cache: got 3, expected taylor:ORDER"),
        ({"cache": "taylor:9"}, "cache: got '9' for the order in 'taylor:9', expected a whole number from 0 to 4"),
        (
            {"cache": "taylor:1:interval=1"},
            "cache: got '1' for the interval in .* from 2 to 1000",
        ),
        ({"cache": "guidance:1"}, "cache: got '1' for the interval in 'guidance:1', expected a whole number from 2"),
        ({"cache": "taylor:1.5"}, "cache: got '1.5' for the order in 'taylor:1.5', expected a whole number"),
        ({"cache": "sea:0.2:interval=3"}, "cache: got interval in 'sea:0.2:interval=3', which sea does not take"),
        ({"cache": "taylor:1:final=1:final=2"}, "cache: got final in .*, twice"),
        ({"cache": "sea:1.2.3"}, "cache: got the threshold 1.2.3 in 'sea:1.2.3', expected a number such as 0.2"),
        (
            {"guidance_interval": (0.8, 0.2)},
            r"guidance_interval: got \(0.8, 0.2\), expected two fractions of the steps",
        ),
        (
            {"guidance_interval": (0.2, 1.2)},
            "guidance_interval: got .* of the steps from 0 to 1",
        ),
        ({"guidance_interval": 0.5}, "guidance_interval: got 0.5, expected two fractions"),
        (
            {"guidance_interval": (0.2, 0.8), "guidance_scale": 1.0},
            "guidance_interval: got .* for a call without guidance by a negative prompt, expected one whose guidance",
        ),
        ({"cache": "guidance:2", "guidance_scale": 1.0}, "cache: got 'guidance:2' for a call without guidance"),
        (
            {"cache": "taylor:1:guidance-order=0", "guidance_scale": 1.0},
            "cache: got 'taylor:1:guidance-order=0' for a call without guidance",
        ),
    ],
)
def test_refusals(emoji, arguments, message):
    with pytest.raises(InputError, match=message):
        emoji.start(PROMPT, **{"num_inference_steps": 4, **arguments})


def test_guidance_of_several_terms_and_edits_of_attention_are_refused(
    exported, tiny_sd_checkpoint, edited_bundle, apple
):
    with pytest.raises(InputError, match="guidance_interval: got .* for a call with guidance of several terms"):
        load(exported(tiny_sd_checkpoint("instruct"))).start(
            PROMPT, image=apple, num_inference_steps=2, guidance_interval=(0.2, 0.8)
        )
    edited = load(edited_bundle)
    with pytest.raises(InputError, match="cache: edits of attention follow every step with all its rows"):
        edited.start(
            ["a red apple", "a red pear"],
            num_inference_steps=2,
            cache="taylor:1",
            cross_attention_kwargs={"edit_type": "replace"},
        )


def test_a_choice_is_read():
    assert parse_cache("taylor:2:interval=5:guidance-order=0") == CacheChoice("taylor", 2, 5, guidance_order=0)
    assert parse_cache("sea:0.25:final=1") == CacheChoice("sea", threshold=0.25, final=1)
    assert parse_cache("guidance:4") == CacheChoice("guidance", interval=4)

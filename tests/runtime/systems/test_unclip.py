"""unCLIP in three stages, and its variations of images, against diffusers after every step of every stage."""

import inspect
import json
import shutil
from dataclasses import fields

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
from PIL import Image
from system_pair import compare_system
from tiny_checkpoints import EMOJI
from tiny_networks import VISION, VOCABULARY, feature_extractor

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError, UnknownArgumentError
from diffoundry.runtime.pipelines.systems.unclip_inputs import UnCLIPImageInputs, UnCLIPInputs

WIDTH = 32
"""Of CLIP's embeddings."""

FEW = {"num_train_timesteps": 5}
"""A run begins with a division by the root of the last alpha_bar: by 5e-5 of 1000 training steps, by 1e-2 of 5.
So that the last bits of a noise do not show, networks also predict little of it."""

TEXT, VARIATION = "UnCLIPPipeline", "UnCLIPImageVariationPipeline"


def super_res(size):
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=6,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",),
        up_block_types=("ResnetUpsampleBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        add_attention=False,
    )


def networks(small, large):
    text = transformers.CLIPTextConfig(
        **VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=WIDTH,
    )  # fmt: skip
    decoder = diffusers.UNet2DConditionModel(
        sample_size=small,
        in_channels=3,
        out_channels=6,
        down_block_types=("SimpleCrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        attention_head_dim=16,
        norm_num_groups=8,
        cross_attention_dim=24,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    return {
        "text_encoder": transformers.CLIPTextModelWithProjection(text),
        "text_proj": UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=64, cross_attention_dim=24),
        "decoder": decoder,
        "super_res_first": super_res(large),
        "super_res_last": super_res(None),  # as Karlo's config
        "decoder_scheduler": diffusers.UnCLIPScheduler(variance_type="learned_range", **FEW),
        "super_res_scheduler": diffusers.UnCLIPScheduler(**FEW),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
    }


def heads(name):
    """The networks that make the image embeddings."""
    if name == VARIATION:
        vision = transformers.CLIPVisionConfig(**VISION, projection_dim=WIDTH)
        encoder = transformers.CLIPVisionModelWithProjection(vision)
        return {"image_encoder": encoder, "feature_extractor": feature_extractor()}
    prior = diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=16, num_layers=1, embedding_dim=WIDTH)
    scheduler = diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
    return {"prior": prior, "prior_scheduler": scheduler}


@pytest.fixture(scope="module")
def checkpoint(system_checkpoint):
    """The tiny checkpoint of a class; all weights are random, those included that start as zeros."""

    def find(name):
        def make(folder):
            parts = {**networks(7, 21), **heads(name)}
            for part in parts.values():
                for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
                    if not parameter.any():
                        parameter.data = 0.3 * torch.randn(parameter.shape)
            for part in ("decoder", "super_res_first", "super_res_last"):
                parts[part].conv_out.weight.data *= 0.1
                parts[part].conv_out.bias.data *= 0.1
            getattr(diffusers, name)(**parts).save_pretrained(folder)
            path = folder / "model_index.json"
            index = json.loads(path.read_text())
            path.write_text(json.dumps({**index, "text_proj": ["unclip", "UnCLIPTextProjModel"]}))  # as Karlo's has it

        return system_checkpoint(name, make)

    return find


@pytest.fixture(scope="module")
def pair(checkpoint, exported):
    """Our pipeline and diffusers', by the class."""

    def open_both(name, target="onnxruntime"):
        folder = checkpoint(name)
        bundle = exported(folder, target="onnxruntime,openvino" if name == TEXT else "onnxruntime")
        return load(bundle, target=target), reference_pipeline(open_checkpoint(str(folder)))

    return open_both


STEPS = {"decoder_num_inference_steps": 3, "super_res_num_inference_steps": 2}
PRIOR_STEPS = {**STEPS, "prior_num_inference_steps": 3}


def picture(width, height, seed=0):
    colours = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def noise(*shape):
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


TEXT_CASES = {
    "one prompt": {"prompt": "a red apple"},
    "a batch": {
        "prompt": ["a red apple on the table " * 20, ""],
        "num_images_per_prompt": 2,
        "decoder_guidance_scale": 2.0,
    },
    "no guidance": {"prompt": ["a", "b"], "prior_guidance_scale": 1.0, "decoder_guidance_scale": 0.5},
    "guidance of the prior alone": {"prompt": "a", "decoder_guidance_scale": 1.0},
    "guidance of the decoder alone": {"prompt": "a", "prior_guidance_scale": 0.0, "decoder_guidance_scale": 3.0},
}


def test_every_step_of_a_prompt_is_diffusers(pair):
    for target in ("onnxruntime", "openvino"):
        ours, theirs = pair(TEXT, target)
        for case, arguments in TEXT_CASES.items() if target == "onnxruntime" else list(TEXT_CASES.items())[:1]:
            images = compare_system(ours, theirs, **{**PRIOR_STEPS, **arguments})
            assert images.shape[1:] == (21, 21, 3), case
            assert images.std() > 0.05, case


def test_encoded_prompts_and_own_noise(pair):
    ours, theirs = pair(TEXT)
    ids = theirs.tokenizer(["a cat", "two"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        output = theirs.text_encoder(ids.input_ids)
    own = {
        "prior_latents": noise(2, WIDTH), "decoder_latents": noise(2, 3, 7, 7), "super_res_latents": noise(2, 3, 21, 21)
    }  # fmt: skip
    compare_system(
        ours,
        theirs,
        ours_only={
            "text_model_output": (output.text_embeds.numpy(), output.last_hidden_state.numpy()),
            "text_attention_mask": ids.attention_mask.numpy(),
            **own,
        },
        theirs_only={
            "text_model_output": (output.text_embeds, output.last_hidden_state),
            "text_attention_mask": ids.attention_mask.bool(),
            **{name: torch.from_numpy(array) for name, array in own.items()},
        },
        **PRIOR_STEPS,
    )


IMAGE_CASES = {
    "one image": {"image": picture(40, 31), "decoder_guidance_scale": 3.0},
    "a batch": {
        "image": [picture(32, 50), picture(64, 32, 1)],
        "num_images_per_prompt": 2,
        "decoder_guidance_scale": 2.0,
    },
    "no guidance": {"image": picture(32, 32), "decoder_guidance_scale": 1.0},
}


def test_every_step_of_a_variation_is_diffusers(pair):
    ours, theirs = pair(VARIATION)
    for case, arguments in IMAGE_CASES.items():
        images = compare_system(ours, theirs, **{**STEPS, **arguments})
        assert images.std() > 0.05, case
    embeddings = noise(2, WIDTH)
    compare_system(
        ours,
        theirs,
        ours_only={"image_embeddings": embeddings},
        theirs_only={"image_embeddings": torch.from_numpy(embeddings)},
        **{**STEPS, "decoder_guidance_scale": 3.0},
    )


def test_defaults_are_diffusers():
    for name, kind in ((TEXT, UnCLIPInputs), (VARIATION, UnCLIPImageInputs)):
        theirs = inspect.signature(getattr(diffusers, name).__call__).parameters
        own = {field.name: field.default for field in fields(kind)}
        assert own == {key: theirs[key].default for key in own}


def test_a_run_names_its_stages(pair):
    ours, _ = pair(TEXT)
    run = ours.start(["a", "two words"], seed=[1, 2], output_type="np", **PRIOR_STEPS)
    steps = list(run)
    assert [step.stage for step in steps] == ["prior"] * 3 + ["decoder"] * 3 + ["super_res"] * 2
    assert steps[0].latents.shape == (2, WIDTH)
    alone = ours("two words", seed=2, output_type="np", **PRIOR_STEPS).images
    np.testing.assert_allclose(run.finish().images[1], alone[0], atol=1e-4)
    assert run.truncated == ("", "")
    assert ours.default_size == (21, 21)
    again = ours.start("a", seed=0, **PRIOR_STEPS)
    next(iter(again))
    with pytest.raises(InputError, match="preview: got step 1 of 8, expected a step of the stage 'super_res'"):
        again.preview()


ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and text_model_output: got neither, expected one of them"),
    "both": (
        {"text_model_output": (noise(1, WIDTH), noise(1, 77, WIDTH)), "text_attention_mask": np.ones((1, 77))},
        "prompt and text_model_output: got both",
    ),
    "a mask alone": ({"text_attention_mask": np.ones((1, 77))}, "got text_attention_mask alone, expected both"),
    "encoded prompts alone": (
        {"prompt": None, "text_model_output": (noise(1, WIDTH), noise(1, 77, WIDTH))},
        "got text_model_output alone, expected both",
    ),
    "other encoded prompts": (
        {"prompt": None, "text_model_output": (noise(1, WIDTH), 3), "text_attention_mask": np.ones((1, 77))},
        "text_model_output and text_attention_mask: got other values, expected NumPy arrays",
    ),
    "encoded prompts that do not fit": (
        {
            "prompt": None,
            "text_model_output": (noise(1, WIDTH), noise(2, 77, WIDTH)),
            "text_attention_mask": np.ones((1, 77)),
        },
        r"got shapes \(1, 32\), \(2, 77, 32\) and \(1, 77\), expected as many prompts in each",
    ),
    "one step": ({"prior_num_inference_steps": 1}, "prior_num_inference_steps: got 1, expected a whole number of at"),
    "steps of no number": ({"super_res_num_inference_steps": "7"}, "super_res_num_inference_steps: got '7', expected"),
    "more steps than trained": ({"decoder_num_inference_steps": 6}, "num_inference_steps is 6, expected"),
    "guidance": ({"decoder_guidance_scale": -1.0}, "decoder_guidance_scale: got -1.0, expected a number of at least 0"),
    "guidance of the prior": ({"prior_guidance_scale": float("nan")}, "prior_guidance_scale: got nan, expected"),
    "no image": ({"num_images_per_prompt": 0}, "num_images_per_prompt: got 0, expected"),
    "latents": (
        {"decoder_latents": noise(1, 3, 9, 9)},
        r"decoder_latents: got shape \(1, 3, 9, 9\), expected \(1, 3, 7",
    ),
    "an image": ({"image": picture(8, 8)}, "image"),
    "a negative prompt": ({"negative_prompt": "b"}, "negative_prompt"),
    "a size": ({"height": 32}, "height"),
    "another scheduler": ({"scheduler": "euler"}, "scheduler: got EulerDiscreteScheduler, expected UnCLIPScheduler"),
}

IMAGE_ERRORS = {
    "a prompt": ({"prompt": "a cat", "image": picture(8, 8)}, "prompt: got 'a cat', expected none: variations of an"),
    "no image": ({}, "image and image_embeddings: got neither, expected one of them"),
    "both": ({"image": picture(8, 8), "image_embeddings": noise(1, WIDTH)}, "image and image_embeddings: got both"),
    "embeddings": ({"image_embeddings": noise(WIDTH)}, r"image_embeddings: got shape \(32,\), expected \(images"),
    "a text": ({"image": "cat.png"}, "image: got"),
    "prior": ({"image": picture(8, 8), "prior_guidance_scale": 2.0}, "prior_guidance_scale"),
}  # fmt: skip


def test_wrong_arguments_are_refused(pair):
    for name, errors, usual in ((TEXT, ERRORS, {"prompt": "a"}), (VARIATION, IMAGE_ERRORS, {})):
        ours, _ = pair(name)
        for arguments, words in errors.values():
            with pytest.raises((InputError, UnknownArgumentError), match=words):
                ours(**{**(PRIOR_STEPS if name == TEXT else STEPS), **usual, **arguments})


def test_sizes_that_do_not_divide_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint(TEXT), tmp_path / "own")
    path = folder / "super_res_first/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 22}))
    with pytest.raises(ConfigError, match="super_res_first/config.json: field 'sample_size': got 22, expected a mul"):
        open_checkpoint(str(folder))

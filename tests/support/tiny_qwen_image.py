"""Tiny random checkpoints of Qwen-Image, with 2 pixels to a latent and 4 to a token."""

import json
import shutil

import diffusers
import torch
import transformers
from language_models import VISION_CHAT_TEMPLATE, qwen2_5_vl, qwen3_vl, write_qwen_tokenizer
from same_weights import same_weights

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = [
    "LATENTS",
    "WIDTH",
    "make_qwen_image",
    "make_qwen_image_21",
    "make_qwen_image_controlnet",
    "make_qwen_image_edit",
    "make_qwen_image_layered",
]

WIDTH = 32
"""Of the language model's hidden states."""

LATENTS = 4
"""Channels."""

_SCHEDULER = {
    "use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 1024, "base_shift": 0.5,
    "max_shift": 0.9, "shift_terminal": 0.02, "time_shift_type": "exponential",
}  # fmt: skip
"""As published, but for the numbers of tokens."""


_COARSE_VAE = {"base_dim": 4, "dim_mult": [1] * 4 + [2], "temperal_downsample": [False] * 4}
"""With 16 pixels to a latent."""


def make_qwen_image(folder, name="QwenImagePipeline", vae=None, **options):
    """Write the checkpoint of a pipeline class.

    Args:
        folder: Where.
        name: Class of the pipeline.
        vae: Options of its VAE.
        options: Of its transformer, which is published with 60 layers.
    """
    source = folder / "source"
    write_qwen_tokenizer(source, chat_template=None)
    tokenizer = open_tokenizer(source, "Qwen2Tokenizer")
    tokenizer.add_tokens(["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"], special_tokens=True)
    transformer = diffusers.QwenImageTransformer2DModel(
        **{
            "in_channels": 4 * LATENTS, "out_channels": LATENTS, "num_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6), **options,
        }
    )  # fmt: skip
    _fill_norms(transformer)
    getattr(diffusers, name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**_SCHEDULER),
        vae=_make_vae(**(vae or {})),
        text_encoder=_language_model(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        **({"controlnet": _controlnet(1, "Inpaint" in name)} if "ControlNet" in name else {}),
    ).save_pretrained(folder)
    shutil.rmtree(source)


def make_qwen_image_edit(folder, name="QwenImageEditPipeline", **options):
    """Write the checkpoint of a class that edits images, with 16 pixels to a latent; others as `make_qwen_image`."""
    make_qwen_image(folder, vae=_COARSE_VAE, **options)
    _write_processor(folder, name)


def make_qwen_image_layered(folder, **options):
    """Write the checkpoint of the class that splits images into layers; others as `make_qwen_image_edit`.

    Latents have 3 channels: diffusers takes an image for latents if it has as many channels.
    """
    latents = {"z_dim": 3, "latents_mean": [0.1, -0.2, 0.3], "latents_std": [1.5, 0.7, 1.0]}
    network = {"in_channels": 12, "out_channels": 3, "use_additional_t_cond": True, "use_layer3d_rope": True}
    make_qwen_image(folder, vae={**_COARSE_VAE, **latents, "input_channels": 4}, **{**network, **options})
    _write_processor(folder, "QwenImageLayeredPipeline")


def make_qwen_image_21(folder, *, sigmas=None, **options):
    """Write the checkpoint of version 2.1, with 16 pixels to a latent.

    Args:
        folder: Where.
        sigmas: As `sample_sigmas` of the pipeline.
        options: Of its transformer, which is published with 32 layers.
    """
    specials = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"]
    write_qwen_tokenizer(folder / "processor", chat_template=VISION_CHAT_TEMPLATE)
    tokenizer = open_tokenizer(folder / "processor", "Qwen2Tokenizer")
    tokenizer.add_tokens(specials, special_tokens=True)
    tokenizer.save_pretrained(folder / "processor")
    config = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2}
    config |= {
        "size": {"shortest_edge": 1024, "longest_edge": 1 << 24},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(config))
    parts = {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**_SCHEDULER),
        "text_encoder": _seeing_language_model(tokenizer),
        "transformer": _transformer_21(**options),
        "vae": _vae_21(),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index |= {"_class_name": "QwenImage21Pipeline", "processor": ["transformers", "Qwen3VLProcessor"]}
    (folder / "model_index.json").write_text(json.dumps({**index, "sample_sigmas": sigmas}))


@same_weights
def _transformer_21(**options):
    made = diffusers.QwenImage21Transformer2DModel(
        **{
            "in_channels": 8, "out_channels": 8, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
            "context_in_dim": WIDTH, "mlp_ratio": 2, "axes_dims_rope": (4, 6, 6), **options,
        }
    )  # fmt: skip
    _fill_norms(made)
    return made


@same_weights
def _vae_21():
    statistics = {"latents_mean": [0.1 * index for index in range(8)], "latents_std": [1.5, 0.7, 1.0, 2.0] * 2}
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=6, z_dim=8, dim_mult=[1, 1, 1, 2, 2], num_res_blocks=1, **statistics
    )
    _fill_norms(vae)
    return vae


@same_weights
def _seeing_language_model(tokenizer):
    model = qwen3_vl()
    model.config.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return model


def _write_processor(folder, name):
    """Write the processor of a class of other images, and its name."""
    index = json.loads((folder / "model_index.json").read_text())
    entries = {"_class_name": name, "processor": ["transformers", "Qwen2VLProcessor"]}
    (folder / "model_index.json").write_text(json.dumps({**index, **entries}))
    (folder / "processor").mkdir()
    config = {"image_processor_type": "Qwen2VLImageProcessor", "size": {"shortest_edge": 3136, "longest_edge": 40_000}}
    (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(config))


@same_weights
def _language_model(tokenizer):
    config = qwen2_5_vl(num_hidden_layers=1).config
    config.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


@same_weights
def _make_vae(**options):
    vae = diffusers.AutoencoderKLQwenImage(
        **{
            "base_dim": 8, "z_dim": LATENTS, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True],
            "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.7, 1.0, 2.0], **options,
        }
    )  # fmt: skip
    _fill_norms(vae)
    return vae


@torch.no_grad()
def _fill_norms(network):
    """Change the ones of normalizations, which would hide a forgotten weight."""
    for weight in network.parameters():
        if weight.ndim == 1 or weight.shape[1:].numel() == 1:
            weight.add_(torch.randn_like(weight) * 0.1)


def make_qwen_image_controlnet(folder, layers, *, masked=False):
    """Write a ControlNet for the transformers above, of random weights; `masked` for one that takes a mask."""
    _controlnet(layers, masked).save_pretrained(folder)


def _controlnet(layers, masked):
    made = diffusers.QwenImageControlNetModel(
        in_channels=4 * LATENTS, out_channels=LATENTS, num_layers=layers, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6), extra_condition_channels=4 if masked else 0,
    )  # fmt: skip
    for parameter in made.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return made

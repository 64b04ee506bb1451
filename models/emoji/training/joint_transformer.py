"""The transformer: joint attention over image and text, as in Stable Diffusion 3, learns the velocity of a flow."""

import argparse
import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffoundry_models.emoji.training import data
from diffoundry_models.emoji.training.checkpoint import (
    copy_component,
    load_network,
    prepare_folder,
    write_component,
)
from diffoundry_models.emoji.training.command import report
from diffoundry_models.emoji.training.loop import Options, Session, TrainingTask
from diffoundry_models.emoji.training.stages import TrainingStage, run_stage
from diffoundry_models.emoji.training.vae import encode
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices, draw_normal

__all__ = [
    "EMPTY_TOKENS",
    "STAGES",
    "TOKENS",
    "MergedTokensAttention",
    "prepare_parts",
    "train_transformer",
    "transformer_task",
    "write_transformer",
]

TOKENS = 16  # of a caption: the longest label in the longest template has 11
EMPTY_TOKENS = 256  # zeros that diffusers' pipeline appends where T5 is absent, its default max_sequence_length
_EMPTY = 0.1
_DRAWN = 4  # captions of a label that `draw_caption` draws, beside those of the templates
_WIRING = ("model_index.json", "scheduler/scheduler_config.json")


class MergedTokensAttention:
    """Joint attention in which the last context token counts as many equal ones.

    Equal tokens stay equal through all layers, since the context has no positions. Softmax over n equal keys gives
    them together the weight of one key whose score is larger by log(n). So one token replaces the 256 zeros that
    diffusers' pipeline appends, at a tenth of the cost. diffusers: `JointAttnProcessor2_0`.
    """

    def __init__(self, count: int) -> None:
        self._bonus = math.log(count)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,  # noqa: ARG002 - diffusers passes it to every processor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend over image tokens (B, N, D) and context tokens (B, M, D), and return both; there is no mask."""

        def heads(states: torch.Tensor) -> torch.Tensor:
            batch, tokens, width = states.shape
            return states.view(batch, tokens, attn.heads, width // attn.heads).transpose(1, 2)

        query, key, value = (heads(linear(hidden_states)) for linear in (attn.to_q, attn.to_k, attn.to_v))
        projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        query_added, key_added, value_added = (heads(linear(encoder_hidden_states)) for linear in projections)
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
            query_added, key_added = attn.norm_added_q(query_added), attn.norm_added_k(key_added)
        query, key = torch.cat([query, query_added], 2), torch.cat([key, key_added], 2)
        value = torch.cat([value, value_added], 2)
        bias = query.new_zeros(query.shape[2], key.shape[2])
        bias[:, -1] = self._bonus
        states = functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)
        image, context = states[:, : hidden_states.shape[1]], states[:, hidden_states.shape[1] :]
        return attn.to_out[1](attn.to_out[0](image)), context if attn.context_pre_only else attn.to_add_out(context)


def transformer_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the task: MSE on the velocity over random latents, times and captions; one caption in ten is empty.

    The velocity is noise - x at (1 - t) x + t noise, and t is logit-normal. Esser et al. 2024, section 3.1,
    https://arxiv.org/abs/2403.03206. The network runs in bfloat16, its weights stay float32.
    """
    transformer = _network(space, options.seed).to(space.device).train()
    transformer.set_attn_processor(MergedTokensAttention(EMPTY_TOKENS))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(space.out / "scheduler")
    vae = load_network(AutoencoderKL, space.component("vae", "all")).to(space.device)
    mean, deviation = encode(vae, space.images)
    states, pooled = (part.to(space.device) for part in _encode_captions(space, options.seed))
    kinds = states.shape[1] - 1

    def loss(generator: torch.Generator) -> torch.Tensor:
        count, device = options.batch, space.device
        picked = draw_indices(count, len(mean), generator, device)
        kind = draw_indices(count, kinds, generator, torch.device("cpu"))
        kind = torch.where(torch.rand((count,), generator=generator) < _EMPTY, kinds, kind).to(device)
        latents = mean[picked] + deviation[picked] * draw_normal(mean[picked], generator)
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        noise = draw_normal(latents, generator)
        times = torch.sigmoid(torch.randn((count, 1, 1, 1), generator=generator)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            output = transformer(
                hidden_states=(1 - times) * latents + times * noise,
                timestep=times.flatten() * scheduler.config.num_train_timesteps,
                encoder_hidden_states=functional.pad(states[picked, kind], (0, 0, 0, 1)),
                pooled_projections=pooled[picked, kind],
            ).sample
        return functional.mse_loss(output.float(), noise - latents)

    return TrainingTask(stage="transformer", module=transformer, loss=loss, data=space.fingerprint)


def write_transformer(space: Workspace, transformer: nn.Module) -> None:
    """Save the transformer in float16."""
    half: Any = copy.deepcopy(transformer).half()
    write_component(half, space.out / "transformer")


STAGES = {
    "transformer": TrainingStage(
        defaults=Options(steps=4400, batch=64, lr=1.5e-3, warmup=200, decay=0.999),
        task=transformer_task,
        write=write_transformer,
    )
}


def train_transformer(options: argparse.Namespace, shipped: Path) -> None:
    """Train the transformer on the labels of the base, from scratch or from the weights in `options.init`.

    Args:
        options: of the command.
        shipped: folder of the model: its configs.
    """
    emoji = data.select(data.load_emoji(options.data), data.read_labels(options.base / "captions.json"))
    prepare_folder(options.out, options.init, shipped, _WIRING, ("transformer",))
    prepare_parts(options.base, options.out)
    data.write_captions(emoji, options.out / "captions.json")
    space = Workspace(
        out=options.out,
        init=options.init,
        architecture=shipped,
        emoji=emoji,
        images=data.images(emoji).to(options.device),
    )
    session = Session(resume=options.resume, minutes=options.minutes, save_every=options.save_every, report=report)
    names = ("steps", "batch", "lr", "warmup", "seed")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    run_stage("transformer", space, session, changes, STAGES)


def prepare_parts(base: Path, out: Path) -> None:
    """Write the parts of Stable Diffusion 3 that are the base's: autoencoder, and tokenizer and text encoder twice.

    Captions have 16 tokens instead of 77, and the text encoders as many positions. The pooled vectors pass through an
    identity projection. The autoencoder has the base's weights, and a shift of 0, which the pipeline expects.

    Args:
        base: checkpoint folder of the Stable Diffusion family.
        out: the checkpoint folder that is being made; parts that it has are kept.
    """
    copy_component(base / "vae", out / "vae")
    config = out / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"shift_factor": 0.0}, indent=2) + "\n")
    for suffix in ("", "_2"):
        if not (out / f"text_encoder{suffix}").exists():
            write_component(_projected(base / "text_encoder"), out / f"text_encoder{suffix}")
        copy_component(base / "tokenizer", out / f"tokenizer{suffix}")
        config = out / f"tokenizer{suffix}" / "tokenizer_config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text("utf-8")) | {"model_max_length": TOKENS}, indent=2) + "\n"
        )


def _projected(folder: Path) -> CLIPTextModelWithProjection:
    """Open a CLIP text encoder with 16 positions and an identity as projection, in float16."""
    plain = CLIPTextModel.from_pretrained(folder, use_safetensors=True)
    config = CLIPTextConfig.from_pretrained(folder)
    config.projection_dim = config.hidden_size
    config.max_position_embeddings = TOKENS
    encoder = CLIPTextModelWithProjection(config)
    weights = {name.removeprefix("text_model."): value for name, value in plain.state_dict().items()}
    positions = "embeddings.position_embedding.weight"
    encoder.text_model.load_state_dict(weights | {positions: weights[positions][:TOKENS]}, strict=True)
    nn.init.eye_(encoder.text_projection.weight)
    half: CLIPTextModelWithProjection = encoder.half()
    return half


def _network(space: Workspace, seed: int) -> SD3Transformer2DModel:
    """Open the initial weights, or draw them; all blocks and the output begin as zero, as in DiT.

    Peebles and Xie 2023, section 3.2, https://arxiv.org/abs/2212.09748.
    """
    if space.init is not None:
        return load_network(SD3Transformer2DModel, space.init / "transformer")
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel.from_config(
        SD3Transformer2DModel.load_config(space.architecture / "transformer")
    )
    modulations = [block.norm1.linear for block in transformer.transformer_blocks]
    modulations += [block.norm1_context.linear for block in transformer.transformer_blocks]
    for linear in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    network: SD3Transformer2DModel = transformer
    return network


@torch.no_grad()
def _encode_captions(space: Workspace, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Run both text encoders on the captions of every emoji, as diffusers' pipeline does.

    Returns:
        The last but one hidden states, float32 (N, K, 16, 256), and the pooled vectors, float32 (N, K, 256). The last
        caption of each emoji is empty.
    """
    generator = torch.Generator().manual_seed(seed)
    captions = [_captions(one, generator) for one in space.emoji]
    states, pooled = [], []
    for suffix in ("", "_2"):
        tokenizer = CLIPTokenizer.from_pretrained(space.out / f"tokenizer{suffix}")
        folder = space.out / f"text_encoder{suffix}"
        encoder = CLIPTextModelWithProjection.from_pretrained(folder, use_safetensors=True).float().eval()
        outputs = []
        for own in captions:
            ids = tokenizer(own, padding="max_length", truncation=True, return_tensors="pt").input_ids
            outputs.append(encoder(ids, output_hidden_states=True))
        states.append(torch.stack([output.hidden_states[-2] for output in outputs]))
        pooled.append(torch.stack([output.text_embeds for output in outputs]))
    return torch.cat(states, -1), torch.cat(pooled, -1)


def _captions(one: data.Emoji, generator: torch.Generator) -> Sequence[str]:
    drawn = [data.draw_caption(one, generator) or one.label for _ in range(_DRAWN)]
    return [*(template.format(one.label) for template in data.TEMPLATES), *drawn, ""]

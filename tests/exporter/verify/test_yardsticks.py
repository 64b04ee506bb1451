"""The gates let PyTorch's own lower precisions pass and stop the next coarser one."""

from functools import partial

import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify.checks.components import compare_component
from diffoundry.exporter.verify.checks.gates import GATES
from diffoundry.exporter.verify.reference.component_cases import (
    denoiser_cases,
    text_cases,
)
from diffoundry.exporter.verify.reference.pipeline_trace import generate_reference, record_calls, to_numpy
from diffoundry.exporter.verify.reference.vae_cases import decoder_cases, encoder_cases
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.models.roles import DENOISER

_COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")


@pytest.fixture(scope="module")
def cases():
    """Every component on what an image of 20 steps feeds it, as the gates were measured.

    The last step has the largest error: in bf16 2.5 times the fp16 gate, where one of six steps is on either side of
    it, as the processor's order of sums decides.
    """
    checkpoint = open_checkpoint("emoji")
    pipeline = reference_pipeline(checkpoint, torch.float32)
    settings = Settings(
        prompts=("cat face",),
        seeds=(3,),
        steps=20,
        guidance_scale=7.5,
        height=64,
        width=64,
        arguments={"num_inference_steps": 20, "guidance_scale": 7.5},
    )
    (denoiser,) = checkpoint.with_role(DENOISER)
    with record_calls(pipeline, [denoiser]) as calls:
        trace = generate_reference(pipeline, "cat face", 3, settings, lambda *_: None)
    return [
        *denoiser_cases(denoiser, trace, calls[denoiser.name], 0),
        *decoder_cases(pipeline, trace),
        *encoder_cases(pipeline, trace),
        *text_cases(pipeline, checkpoint.components, ["cat face"]),
    ]


def _rounded(weight, levels, group):
    """Symmetric, one scale for `group` weights of an output channel."""
    rows = weight.flatten(1)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
    scale = padded.abs().amax(-1, keepdim=True).clamp(min=1e-12) / levels
    return ((padded / scale).round() * scale).flatten(1)[:, : rows.shape[1]].reshape(weight.shape)


class _Torch:
    """The embedded model's networks as PyTorch runs them in another precision."""

    def __init__(self, precision):
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        self.pipeline = reference_pipeline(open_checkpoint("emoji"), torch.float32)
        for name in ("text_encoder", "unet", "vae"):
            network = getattr(self.pipeline, name)
            for part in network.modules():
                if isinstance(part, torch.nn.Linear | torch.nn.Conv2d) and precision.endswith("-weights"):
                    weight = part.weight.data
                    whole = weight[0].numel()
                    part.weight.data = _rounded(weight, *((7, 64) if precision == "int4-weights" else (127, whole)))
            torch.nn.Module.to(network, self.dtype)

    def run(self, name, feeds):
        inputs = {key: torch.from_numpy(array) for key, array in feeds.items()}
        inputs = {key: value.to(self.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        with torch.inference_mode():
            outputs = getattr(self, f"_{name}")(**inputs)
        return {key: to_numpy(value) for key, value in outputs.items()}

    def _text_encoder(self, input_ids):
        encoder = self.pipeline.text_encoder
        output = encoder(input_ids.long(), output_hidden_states=True)
        return {
            "last_hidden_state": output.last_hidden_state,
            "pooler_output": output.pooler_output,
            "normalized_hidden_states": encoder.final_layer_norm(torch.stack(output.hidden_states[:-1], dim=1)),
        }

    def _unet(self, **inputs):
        return {"out_sample": self.pipeline.unet(**inputs).sample}

    def _vae_encoder(self, sample):
        return {"latent_parameters": self.pipeline.vae.encode(sample).latent_dist.parameters}

    def _vae_decoder(self, latent_sample):
        return {"sample": self.pipeline.vae.decode(latent_sample).sample}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "finer"),
    [("fp16", "fp32"), ("bf16", "fp16"), ("int8-weights", "fp16"), ("int4-weights", "int8-weights")],
)
def test_a_precision_passes_its_own_gates_and_not_those_of_a_finer_one(cases, precision, finer):
    judge = partial(_judge, _Torch(precision), cases)
    assert judge(GATES[precision]) == set()
    assert "unet out_sample" in judge(GATES[finer])


def _judge(components, cases, gates):
    """The outputs that fail."""
    failed = set()
    for name in _COMPONENTS:
        mine = [case for case in cases if case.component == name]
        _, checks = compare_component(components, name, mine, gates)
        failed |= {check.subject for check in checks if not check.passed}
    return failed

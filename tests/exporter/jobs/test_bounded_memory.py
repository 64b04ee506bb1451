"""Memory of an export: it grows with the largest weight of a network, not with all of them."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from safetensors.torch import load_file

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.jobs.job import EngineJob, PortableJob
from diffoundry.exporter.jobs.processes import JobProcesses
from diffoundry.exporter.passes import OPSET
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.models.roles import TEXT_ENCODER

pytestmark = pytest.mark.slow

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
VARIANTS = (
    ("onnxruntime", "fp16"),
    ("onnxruntime", "int8-weights"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8-weights"),
    ("openvino", "int4-weights"),
    ("coreml", "fp16"),
)
WIDTH, INNER = 256, 16384
"""A layer of the text encoder has two weights of 4.2 million numbers, 17 MB in fp32, and little besides."""


def resident(field):
    """Bytes in memory now ("VmRSS"), or at most since `forget_peak` ("VmHWM")."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def forget_peak():
    try:
        CLEAR.write_text("5")
    except OSError:
        pytest.skip("this system does not let a process reset its peak of memory")


@contextlib.contextmanager
def bounded(most, what):
    """Check that memory grows by no more than `most` bytes meanwhile."""
    forget_peak()
    before = resident("VmRSS")
    yield
    grown = resident("VmHWM") - before
    assert grown < most, f"{what}: memory grew by {grown / 1e6:.0f} MB"


@pytest.fixture
def large_encoder(own_checkpoint):
    """Factory: a checkpoint whose text encoder has so many layers, in a type of torch."""

    def make(layers, dtype):
        folder = own_checkpoint / "text_encoder"
        config = json.loads((folder / "config.json").read_text())
        config |= {
            "num_hidden_layers": layers,
            "intermediate_size": INNER,
            "hidden_size": WIDTH,
            "num_attention_heads": 4,
        }
        torch.manual_seed(0)
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).to(dtype)
        model.save_pretrained(folder)
        return own_checkpoint

    return make


def run_jobs(run, root, bundle, variants=VARIANTS):
    """Run the jobs of the text encoder with `run(job)`; label of each job to its result."""
    checkpoint = open_checkpoint(str(root))
    (bundle / "text_encoder").mkdir(parents=True)
    for source, name in checkpoint.bundle_files():
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(source.read_bytes())
    jobs = [
        PortableJob(
            checkpoint=checkpoint.describe(), component="text_encoder", opset=OPSET, dims={}, folder=str(bundle)
        )
    ]
    jobs += [
        EngineJob(
            component="text_encoder",
            role=TEXT_ENCODER,
            variant=Variant(target=target, precision=precision),
            first=precision == "fp32",
            dims={},
            buckets=(),
            quantization=None,
            folder=str(bundle),
        )
        for target, precision in variants
    ]
    return {job.label: run(job) for job in jobs}


def check_weights(root, folder, precisions=("fp32", "bf16")):
    """Compare a weight of the checkpoint with those of every graph."""
    name = "encoder.layers.1.mlp.fc1.weight"
    weights = load_file(root / "text_encoder/model.safetensors")
    weight = next(tensor for key, tensor in weights.items() if key.endswith(name)).float().numpy()
    portable, half = (ir.load(folder / file).graph.initializers for file in ("model.onnx", "model.fp16.onnx"))
    stored = next(key for key in portable if key.endswith(f"{name}.T"))
    assert np.array_equal(portable[stored].const_value.numpy(), weight.T)
    assert np.array_equal(half[stored].const_value.numpy(), weight.T.astype(np.float16))
    for precision in precisions:
        name = "openvino_model.bin" if precision == "fp32" else f"openvino_model.{precision}.bin"
        numbers = weight if precision == "fp32" else weight.astype(np.float16)
        assert numbers.tobytes() in (folder / name).read_bytes()


def test_an_export_holds_one_weight_at_a_time(large_encoder, work_here, tmp_path):
    """270 MB of weights, in this process: no job takes half of that, the modules that it imports included."""
    pytest.importorskip("openvino")
    pytest.importorskip("coremltools")
    root = large_encoder(8, torch.bfloat16)

    def run(job):
        with bounded(130e6, job.label):
            assert work_here(job, None).error is None

    run_jobs(run, root, tmp_path / "b", [("onnxruntime", "fp16"), ("openvino", "bf16"), ("coreml", "fp16")])
    check_weights(root, tmp_path / "b/text_encoder", ["bf16"])
    shutil.rmtree(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_peaks_do_not_grow_with_the_number_of_weights(large_encoder, tmp_path, dtype):
    """1.2 GB of weights in processes of their own, against a tenth of that."""
    pytest.importorskip("openvino")
    pytest.importorskip("coremltools")
    peaks = []
    for layers in (4, 36):
        root = large_encoder(layers, dtype)
        with JobProcesses() as processes:
            results = run_jobs(lambda job: processes(job, lambda *_words: None), root, tmp_path / f"b{layers}")
        peaks.append({label: result.peak_rss for label, result in results.items()})
    for label, peak in peaks[1].items():
        assert peak < 900e6, f"{label}: {peak / 1e6:.0f} MB"
        assert peak - peaks[0][label] < 150e6, f"{label}: {(peak - peaks[0][label]) / 1e6:.0f} MB more"
    check_weights(root, tmp_path / "b36/text_encoder")
    shutil.rmtree(tmp_path / "b36")

"""Everything that `generate` refuses of a checkpoint is refused before the first job of an export."""

import json
import shutil

import pytest

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.export import export
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import CheckpointError


def edit(name, **changes):
    def change(root):
        path = root / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def vocabulary(name, content):
    def change(root):
        (root / "tokenizer/tokenizer.json").unlink()
        (root / "tokenizer" / name).write_bytes(content)

    return change


SCHEDULER, EXTRACTOR = "scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json"
CASES = {
    "unknown key": (
        edit(SCHEDULER, my_note=1),
        r"scheduler/scheduler_config\.json: PNDMScheduler: config key 'my_n",
    ),
    "value": (
        edit(SCHEDULER, _class_name="DDIMScheduler", clip_sample=None),
        r"scheduler/scheduler_config\.json: DDIMScheduler: option 'clip_sample' is None, expected true or false",
    ),
    "algorithm": (
        edit(SCHEDULER, _class_name="DPMSolverMultistepScheduler", algorithm_type="deis"),
        r"scheduler/scheduler_config\.json: DPMSolverMultistepScheduler: option 'algorithm_type' is 'deis'",
    ),
    "class": (
        edit(SCHEDULER, _class_name="NoScheduler"),
        r"scheduler/scheduler_config\.json: scheduler 'NoSchedule",
    ),
    "vocabulary": (
        vocabulary("vocab.json", b"[]"),
        r"tokenizer/vocab\.json: the vocabulary is .*; download it again",
    ),
    "merges": (vocabulary("merges.txt", b"\xff\xfe\0"), r"tokenizer/merges\.txt: not UTF-8 text .*; download it again"),
    "length": (
        edit("tokenizer/tokenizer_config.json", model_max_length=1e30),
        r"tokenizer/tokenizer_config\.json: got no 'model_max_length', expected the number of tokens of a prompt",
    ),
    "extractor": (
        edit(EXTRACTOR, do_pad=True),
        r"feature_extractor/preprocessor_config\.json: field 'do_pad': got true",
    ),
    "scaling": (edit("vae/config.json", scaling_factor="x"), r"own/vae/config\.json: field 'scaling_factor': got 'x'"),
    "channels": (
        edit("unet/config.json", in_channels=6),
        "own: got a denoiser of 6 channels over latents of 4, whi",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_the_first_job(tiny_sd_checkpoint, tmp_path, case):
    change, message = CASES[case]
    root = shutil.copytree(tiny_sd_checkpoint("sd1-checked"), tmp_path / "own")
    change(root)
    jobs = []
    request = ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),))
    with pytest.raises(CheckpointError, match=message) as caught:
        export(open_checkpoint(str(root)), request, tmp_path / "x.bundle", lambda *_: None, run=jobs.append)
    assert not jobs
    assert "rehearsal" not in str(caught.value)
    assert not (tmp_path / "x.bundle.partial").exists()


def test_a_temporary_folder_that_is_full(tiny_sd_checkpoint, tmp_path, monkeypatch):
    import errno
    from types import SimpleNamespace

    from diffoundry.exporter.checkpoints import rehearse
    from diffoundry.runtime.errors import BundleError

    def full(_source, target):
        raise OSError(errno.ENOSPC, "No space left on device", _source, None, target)

    monkeypatch.setattr(rehearse, "shutil", SimpleNamespace(copyfile=full))
    request = ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),))
    message = r"the check of the checkpoint: no space left while writing .*diffoundry-rehearsal.* free some space"
    with pytest.raises(BundleError, match=message):
        export(open_checkpoint(str(tiny_sd_checkpoint())), request, tmp_path / "x.bundle", lambda *_: None)

"""Lowering a network: engines of targets that name no files of their own are refused."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from diffoundry.exporter.steps import lower
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import EngineError


@pytest.mark.parametrize(("files", "named"), [(("unet/model.bin",), "unet/model.bin"), ((), "no file")])
def test_an_engine_without_its_files_is_a_fault_of_the_target(monkeypatch, tmp_path, files, named):
    spec = SimpleNamespace(target="other", files=files, all_files=files)
    monkeypatch.setattr(lower, "lower_parts", lambda *_, **__: spec)
    message = f"target 'other': its engine names {named}, expected its own files. This is a fault of the target: report"
    with pytest.raises(EngineError, match=message):
        lower.write_engine(
            component="unet",
            role="denoiser",
            variant=Variant(target="onnxruntime", precision="fp32"),
            first=True,
            dims={},
            buckets=(),
            quantization=None,
            folder=str(tmp_path),
            phase=lambda _name: nullcontext(),
            progress=lambda _text: None,
        )

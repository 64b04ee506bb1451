"""Refusals of a file system, as Python, NumPy and OpenVINO report them."""

import errno
import re
import resource
import subprocess
import sys

import pytest

from diffoundry.exporter.jobs.storage import is_storage_error, storage_sentence

_FULL = r"job: no space left while writing .*; finished jobs are kept, free some space and run the same command again"


def _limited(tmp_path, code: str) -> str:
    """Run code that may write 64 kB to a file; it prints the sentence of its exception."""
    start = "import sys, numpy as np\nfrom diffoundry.exporter.jobs.storage import is_storage_error, storage_sentence\n"
    tried = "".join(f"    {line}\n" for line in code.splitlines())
    end = "except Exception as error:\n    if is_storage_error(error, '.'): print(storage_sentence(error, 'job', '.'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{start}try:\n{tried}{end}"],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


_OPENVINO = """
import openvino as ov
x = ov.opset13.parameter([1, 400], np.float32)
y = ov.opset13.matmul(x, ov.opset13.constant(np.random.rand(400, 400).astype(np.float32)), False, False)
ov.save_model(ov.Model([y], [x]), "a.xml", compress_to_fp16=False)
"""


@pytest.mark.parametrize(
    "code", ["np.zeros(1 << 18).tofile('a')", "open('a', 'wb').write(bytes(1 << 20))", _OPENVINO.strip()]
)
def test_a_file_that_is_cut_is_a_matter_of_space(tmp_path, code):
    if "openvino" in code:
        pytest.importorskip("openvino")

    assert re.match(_FULL, _limited(tmp_path, code))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/b/x"), r"job: no space left while writing /b/x \(No space"),
        (
            OSError("147456 requested and 72192 written"),
            r"job: no space left while writing \S+; finished jobs are kept",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/b/x"),
            r"job: /b/x cannot be written \(Read-only file system\)",
        ),
        (OSError(errno.EIO, "Input/output error", "/b/x"), "job: /b/x: Input/output error"),
    ],
)
def test_each_refusal_has_its_sentence(tmp_path, error, words):

    assert is_storage_error(error, tmp_path)
    assert re.match(words, storage_sentence(error, "job", tmp_path))


def test_other_errors_are_not_taken_for_it(tmp_path):
    assert not is_storage_error(ValueError("shape"), tmp_path)
    wrapped = RuntimeError("cannot serialize")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_storage_error(wrapped, tmp_path)

"""Extension that an engine may load, and the message when there is none."""

import importlib.util

import pytest

from diffoundry.runtime.errors import ConfigError, EngineError
from diffoundry.runtime.native import attention_library, describe_attention
from diffoundry.runtime.native import kernel as kernel_module

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="no OpenVINO")


@pytest.fixture
def found(tmp_path, look_in):
    """The package looks for its libraries in an empty folder."""
    return look_in(tmp_path)


@needs_openvino
def test_extension_is_found_with_its_paths(installed, kernel):
    assert attention_library() == installed / "libdiffoundry_attention_openvino.so"
    said = describe_attention()
    assert said.startswith(f"native code: bf16 by {kernel.best_path('bf16')}, fp16 by {kernel.best_path('fp16')}")


def test_not_installed(found):
    assert attention_library() is None
    assert describe_attention() == "OpenVINO (the native attention kernel is not installed)"


@needs_openvino
def test_other_openvino(installed, monkeypatch):
    monkeypatch.setattr("diffoundry.runtime.native.library.version", lambda _name: "1999.1.0")
    assert attention_library() is None
    assert "was built against OpenVINO 2" in describe_attention()
    assert "installed is 1999.1.0" in describe_attention()


@needs_openvino
def test_kernel_without_extension(found, built):
    (found / kernel_module._LIBRARY).symlink_to(built / kernel_module._LIBRARY)
    assert attention_library() is None
    assert "libdiffoundry_attention_openvino.so is not beside" in describe_attention()


def test_broken_library(found):
    (found / kernel_module._LIBRARY).write_bytes(b"not a library")
    with pytest.raises(EngineError, match="cannot be used .*, expected a library with interface 1; build it again"):
        attention_library()


def test_library_of_another_version(found, built, monkeypatch):
    (found / kernel_module._LIBRARY).symlink_to(built / kernel_module._LIBRARY)
    monkeypatch.setattr(kernel_module, "_INTERFACE", 2)
    with pytest.raises(EngineError, match=r"cannot be used \(interface 1\), expected a library with interface 2"):
        attention_library()


def test_a_path_that_is_asked_for_is_one_that_the_processor_has(installed, kernel, monkeypatch):
    monkeypatch.setenv("DIFFOUNDRY_NATIVE_PATH", "avx513")
    with pytest.raises(ConfigError, match="^DIFFOUNDRY_NATIVE_PATH: got 'avx513', expected avx512bf16; unset it"):
        attention_library()
    monkeypatch.setenv("DIFFOUNDRY_NATIVE_PATH", "avx512bf16")
    if not kernel.available("avx512bf16"):
        with pytest.raises(ConfigError, match="got avx512bf16, expected a processor with AVX512-BF16"):
            attention_library()


def test_installed_file_looks_beside_the_package():
    assert kernel_module.installed_file("kernel.py") is not None
    assert kernel_module.installed_file("no such library.so") is None

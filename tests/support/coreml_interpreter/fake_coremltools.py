"""A Mac for tests of the engine: coremltools whose models are interpreted."""

import importlib
import platform
import sys
import types

import coremltools as ct

from coreml_interpreter.run import Interpreter
from diffoundry.targets.coreml.run import engine

__all__ = ["FakeCoremltools", "install_fake"]


class FakeCoremltools:
    """coremltools on a Mac, as far as the engine needs it: `MLModel.predict` interprets the package."""

    def __init__(self):
        self.opened = []
        self.compiled = []
        fake = self

        class MLModel:
            def __init__(self, path, compute_units, function_name=None):
                fake.opened.append((path, compute_units.name, function_name))
                self._path = path
                self._interpreter = Interpreter(path, function_name)

            def predict(self, feeds):
                return self._interpreter.run(feeds).outputs

            def get_compiled_model_path(self):
                return self._path

        class CompiledMLModel(MLModel):
            def __init__(self, path, compute_units, function_name=None):
                fake.compiled.append(path)
                self._interpreter = Interpreter(path, function_name)

        self.models = types.SimpleNamespace(MLModel=MLModel, CompiledMLModel=CompiledMLModel)
        self.utils = types.SimpleNamespace(load_spec=ct.utils.load_spec)
        self.ComputeUnit = ct.ComputeUnit


def install_fake(monkeypatch):
    """Let the engine believe that it runs on a Mac with Apple's processor and macOS 15.1.

    Args:
        monkeypatch: Undoes it.

    Returns:
        The fake coremltools.
    """
    fake = FakeCoremltools()
    real = importlib.import_module
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(
        engine.importlib,
        "import_module",
        lambda name, package=None: fake if name == "coremltools" else real(name, package),
    )
    return fake

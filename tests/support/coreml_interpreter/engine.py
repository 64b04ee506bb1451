"""The interpreter as an engine of the runtime: slow, on every machine, for developers."""

from pathlib import Path

from coreml_interpreter.run import Interpreter
from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.plugins import TargetPlugin
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.targets.coreml.run.functions import PackageFunction, PackageFunctions, package_folders

__all__ = ["PLUGIN", "InterpretedEngine", "devices", "precisions"]


def devices():
    """This machine's processor."""
    return ("cpu",)


def precisions(_device):
    """Everything that a package holds: it is emulated, which is the point."""
    return ("fp32", "fp16", "int8", "int8-weights", "int4-weights")


class InterpretedEngine:
    """Interprets the packages of one component; `runtime.engines.protocol.OpenEngine`.

    Attributes:
        non_finite: Names of the values that were not finite in any call so far.
    """

    def __init__(self, path: Path, spec: EngineSpec, _options: EngineOptions | None = None) -> None:
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self.non_finite: set[str] = set()
        self._functions = PackageFunctions(
            [part for folder in package_folders(path, spec) for part in self._open(folder)], spec.outputs
        )

    def _open(self, folder: Path):
        for name in Interpreter(folder).package.functions:
            interpreter = Interpreter(folder, name)
            function = interpreter.function
            yield PackageFunction(
                label=f"{folder.name} {name}",
                inputs=tuple(TensorSpec(name=f.name, dtype=f.dtype, shape=f.shape) for f in function.inputs.values()),
                outputs=tuple(TensorSpec(name=f.name, dtype=f.dtype, shape=f.shape) for f in function.outputs.values()),
                call=lambda feeds, interpreter=interpreter: self._call(interpreter, feeds),
            )

    def _call(self, interpreter, feeds):
        run = interpreter.run(feeds)
        self.non_finite.update(run.non_finite)
        return run.outputs

    def run(self, feeds):
        """See `runtime.engines.protocol.Engine.run`."""
        return self._functions.run(feeds)

    def close(self):
        """Nothing to free."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


PLUGIN = TargetPlugin(
    name="coreml",
    summary="Core ML packages, interpreted",
    module="coremltools",
    extra="coreml",
    target="diffoundry.targets.coreml.build.target:CoreMlTarget",
    engine="coreml_interpreter.engine:InterpretedEngine",
    devices="coreml_interpreter.engine:devices",
    precisions="coreml_interpreter.engine:precisions",
)
"""What stands in for the real plugin where packages are to be run without a Mac."""

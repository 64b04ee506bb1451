"""Finds a bundle's variants: those that can run here, and the reasons why the others cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffoundry.exporter.verify.report.report import Absence
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.protocol import AdapterWeights, Engine, EngineOptions, OpenEngine
from diffoundry.runtime.engines.select import EngineSelection
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import EngineError, InputError

__all__ = ["CustomEngines", "OpenVariant", "calibrated_psnr", "find_variants", "held_variants"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenVariant:
    """One set of engines that can run here: one target in one precision.

    Attributes:
        name: Target and precision, such as "onnxruntime fp16".
        components: Session over its engines; none is open yet.
    """

    name: str
    components: EngineSession

    def engines(self) -> dict[str, tuple[str, str]]:
        """Map components to (target, precision). Without a manifest the engines are opened to read their types."""
        engines = {}
        for name in self.components.bundle.components:
            choice = self.components.choice(name)
            if choice is not None:
                engines[name] = choice.spec.target, choice.spec.precision
            else:
                engine = self.components.engine(name)
                halves = any(tensor.dtype == "float16" for tensor in (*engine.inputs, *engine.outputs))
                engines[name] = "onnxruntime", "fp16" if halves else "fp32"
        return engines


class CustomEngines(EngineSession):
    """Opens the engines of one target and precision with a caller's function, whatever this machine supports.

    For running a vendor's files without the vendor, as by an interpreter of Core ML packages.
    """

    def __init__(
        self, bundle: Bundle, *, target: str, precision: str, options: EngineOptions, opener: OpenEngine
    ) -> None:
        """Store the arguments. Nothing is opened yet. `opener` takes the arguments of a plugin's engine."""
        super().__init__(bundle, target=target, precision=precision, options=options)
        self._wanted = target, precision
        self._given = options
        self._opener = opener

    def choice(self, name: str) -> EngineSelection:
        """Select the engine of this target and precision.

        Raises:
            BundleError: The bundle has no such component.
            EngineError: There is no such engine, or it is not built yet.
        """
        target, precision = self._wanted
        for spec in self.bundle.engines(name):
            if (spec.target, spec.precision) == self._wanted and spec.pending is None:
                return EngineSelection(spec=spec, device=self._given.device or "cpu", skipped=())
        raise EngineError(
            f"component {name!r}: got no built engine for {target} {precision}; "
            f"add it with 'diffoundry build' and --target and --precision"
        )

    def _open_file(
        self,
        target: str,  # noqa: ARG002
        path: Path,
        spec: EngineSpec | None,
        options: EngineOptions,
        adapters: AdapterWeights | None,  # noqa: ARG002
    ) -> Engine:
        return self._opener(path, spec, options)


def find_variants(bundle: Bundle, request: VerifyRequest) -> tuple[list[OpenVariant], list[Absence]]:
    """Find every requested target and precision, in the bundle's order.

    Returns:
        Variants that can run here, and variants that cannot with their reason.

    Raises:
        EngineError: No variant can run; the message gives the reasons.
        InputError: An opener for a target that the bundle has no engines for.
    """
    if bundle.manifest is None:
        components = EngineSession(bundle, target=request.target, precision=request.precision, options=request.options)
        return [OpenVariant(name="onnxruntime", components=components)], []
    held = _held(bundle)
    _check_openers(request, held)
    variants, absent = [], []
    for target, precision in held_variants(bundle, request):
        name, components = f"{target} {precision}", _components(bundle, request, target, precision)
        try:
            for component in bundle.components:
                components.choice(component)
        except EngineError as error:
            absent.append(Absence(name=name, reason=str(error)))
        else:
            variants.append(OpenVariant(name=name, components=components))
    if not variants and absent:
        raise EngineError(f"bundle {bundle.root}: {' '.join(absence.reason for absence in absent)}")
    if not variants:  # the bundle has no such engines: the runtime's message is better
        EngineSession(bundle, target=request.target, precision=request.precision).choice(bundle.components[0])
    return variants, absent


def calibrated_psnr(bundle: Bundle, precision: str) -> float | None:
    """Image PSNR that was calibration's budget for a precision, in dB of the mean, or None."""
    choice = bundle.manifest.recipe.quantization.get(precision) if bundle.manifest else None
    return choice.min_psnr if choice else None


def _check_openers(request: VerifyRequest, held: Sequence[tuple[str, str]]) -> None:
    for target in request.openers:
        if target not in {name for name, _ in held}:
            raise InputError(
                f"engine: got one for the target {target!r}, the bundle holds "
                f"{', '.join(f'{name} {precision}' for name, precision in held)}; leave it out, or name one of those"
            )


def held_variants(bundle: Bundle, request: VerifyRequest) -> list[tuple[str, str]]:
    """List every (target, precision) of the bundle that is requested, whether it can run here or not."""
    return [
        (target, precision)
        for target, precision in _held(bundle)
        if request.target in (None, target) and request.precision in (None, precision)
    ]


def _held(bundle: Bundle) -> list[tuple[str, str]]:
    """List every (target, precision) of the bundle, once."""
    engines = (spec for name in bundle.components for spec in bundle.engines(name))
    return list(dict.fromkeys((spec.target, spec.precision) for spec in engines))


def _components(bundle: Bundle, request: VerifyRequest, target: str, precision: str) -> EngineSession:
    opener = request.openers.get(target)
    if opener is None:
        return EngineSession(bundle, target=target, precision=precision, options=request.options)
    return CustomEngines(bundle, target=target, precision=precision, options=request.options, opener=opener)

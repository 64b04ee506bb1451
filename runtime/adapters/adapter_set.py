"""The adapters of one pipeline: LoRAs with their scales, and rows for new tokens."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.lora import Factors, Host, Lora, join_factors, read_lora
from diffoundry.runtime.adapters.pickles import adapter_file
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER, TEXT_ENCODER
from diffoundry.runtime.models.z_image_controlnet import SHARED_LAYERS

__all__ = ["AdapterSet", "LoraReport"]

FloatArray = npt.NDArray[np.float32]

_ADAPTED_ROLES = (DENOISER, TEXT_ENCODER)
"""Roles of the components that LoRAs change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraReport:
    """The result of loading a LoRA file.

    Attributes:
        name: Its name, by which its scale is set and it is unloaded.
        layers: Component to the number of its layers that it changes.
        unused: Names of the tensors that belong to no component of any pipeline and had no effect.
        notes: Sentences on what the file leaves open, and the rule that was used: layers without an alpha, patterns
            that fit no layer.
    """

    name: str
    layers: Mapping[str, int]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """Everything loaded; a change makes a new state, which replaces the old one when all engines have it."""

    loras: Mapping[str, tuple[Lora, float]]
    rows: Mapping[str, FloatArray]

    def feeds(self, session: EngineSession, name: str) -> dict[str, FloatArray]:
        """Return the arrays that `EngineSession.set_adapters` gives to a component."""
        changes: dict[str, list[tuple[Factors, float]]] = {}
        for lora, scale in self.loras.values():
            for layer, factors in lora.factors.get(name, {}).items():
                changes.setdefault(layer, []).append((factors, scale))
        feeds: dict[str, FloatArray] = {}
        for layer, parts in changes.items():
            joined = join_factors(parts)
            turned = joined.down.ndim == 2  # linear: as MatMul reads them
            feeds[f"{layer}.lora_A"] = np.ascontiguousarray(joined.down.T if turned else joined.down)
            feeds[f"{layer}.lora_B"] = np.ascontiguousarray(joined.up.T if turned else joined.up)
        if name in self.rows:
            feeds[f"{session.adapters(name).table}.rows"] = self.rows[name]
        return feeds


class AdapterSet:
    """Changes all components at once or none: when an engine refuses, everything stays as it was.

    Safe to use from several threads; images under way see a change at their next call of an engine.

    Attributes:
        session: The engines to change.
    """

    def __init__(self, session: EngineSession) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._state = _State(loras={}, rows={})

    @property
    def scales(self) -> dict[str, float]:
        """Name to scale of the LoRAs that are loaded, the first loaded first."""
        return {name: scale for name, (_, scale) in self._state.loras.items()}

    def load_lora(self, path: str | os.PathLike[str], scale: float, name: str | None) -> LoraReport:
        """See `Loras.load`."""
        file = adapter_file(path)
        name = file.stem if name is None else name
        if not isinstance(name, str) or not name:
            raise InputError(f"name: got {name!r}, expected a text of at least one letter")
        with self._lock:
            if name in self._state.loras:
                raise InputError(f"LoRA {name!r} is loaded already; pass another name, or change its scale")
            lora = read_lora(file, self._hosts(), self.session.bundle.components)
            self._check_shared(lora)
            loras = {**self._state.loras, name: (lora, _checked_scale(scale))}
            self._change(replace(self._state, loras=loras))
        counts = {component: len(layers) for component, layers in lora.factors.items()}
        return LoraReport(name=name, layers=counts, unused=lora.unused, notes=lora.notes)

    def set_scale(self, scale: float, name: str | None) -> None:
        """See `Loras.set_scale`."""
        with self._lock:
            chosen = self._chosen(name)
            loras = {
                key: (lora, _checked_scale(scale) if key in chosen else old)
                for key, (lora, old) in self._state.loras.items()
            }
            self._change(replace(self._state, loras=loras))

    def unload_lora(self, name: str | None) -> None:
        """See `Loras.unload`."""
        with self._lock:
            chosen = self._chosen(name)
            loras = {key: value for key, value in self._state.loras.items() if key not in chosen}
            self._change(replace(self._state, loras=loras))

    def rows(self, component: str) -> FloatArray | None:
        """Return the rows appended to the token table of a text encoder, (count, width), or None."""
        return self._state.rows.get(component)

    def set_rows(self, rows: Mapping[str, FloatArray | None]) -> None:
        """Append rows to the token tables of text encoders, float32 (count, width), or remove them.

        Args:
            rows: Component to its rows, or to None; components that are not named keep theirs.

        Raises:
            EngineError: The engine of a component takes none; then all stay as they were.
        """
        with self._lock:
            changed = {**self._state.rows, **rows}
            kept = {name: array for name, array in changed.items() if array is not None}
            self._change(replace(self._state, rows=kept))

    def _chosen(self, name: str | None) -> set[str]:
        loaded = self._state.loras
        if name is not None and (not isinstance(name, str) or name not in loaded):
            raise InputError(f"LoRA {name!r} is not loaded, expected one of {', '.join(loaded) or 'none'}")
        return set(loaded) if name is None else {name}

    def _hosts(self) -> dict[str, Host]:
        """Return the components of the bundle that take LoRAs, with their layers.

        Raises:
            EngineError: One of them takes none.
        """
        bundle = self.session.bundle
        return {name: Host.of(self.session.adapters(name), bundle.config(name)) for name in self._names()}

    def _names(self) -> list[str]:
        return [name for role in _ADAPTED_ROLES for name in self.session.with_role(role)]

    def _check_shared(self, lora: Lora) -> None:
        """Refuse changes of layers that a ControlNet has of its transformer: its engine would keep the old ones.

        Raises:
            InputError: As said.
        """
        bundle = self.session.bundle
        nets = [name for name in self.session.with_role(CONTROLNET) if bundle.network(name) in SHARED_LAYERS]
        for net in nets:
            shared = SHARED_LAYERS[str(bundle.network(net))]
            changed = [layer for part in lora.factors.values() for layer in part if layer.startswith(shared)]
            if changed:
                raise InputError(
                    f"LoRA {lora.path}: got a change of {changed[0]}, a layer that {net!r} has of its transformer and "
                    f"cannot change at run time; fuse the LoRA into both with 'export --lora'"
                )

    def _change(self, state: _State) -> None:
        old, done = self._state, []
        for name in self._names():
            if not (_touches(old, name) or _touches(state, name)):
                continue
            done.append(name)
            try:
                self.session.set_adapters(name, state.feeds(self.session, name))
            except (DiffoundryError, MemoryError):
                for changed in done:
                    self.session.set_adapters(changed, old.feeds(self.session, changed))
                raise
        self._state = state


def _touches(state: _State, name: str) -> bool:
    return name in state.rows or any(name in lora.factors for lora, _ in state.loras.values())


def _checked_scale(scale: Any) -> float:
    most = float(np.finfo(np.float32).max)
    real = issubclass(type(scale), Real) and not isinstance(scale, bool)
    if not real or not -most <= scale <= most:
        raise InputError(f"scale: got {shorten(scale)}, expected a finite number; 1 is the LoRA as it was trained")
    return float(scale)

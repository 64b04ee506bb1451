"""The models of a server: one pipeline for each bundle, by the name of its folder."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.presets import read_presets
from diffoundry.runtime.suggest import did_you_mean
from diffoundry.serving.server.errors import ApiError
from diffoundry.serving.server.model_facts import model_facts
from diffoundry.serving.server.parameter_table import ENDPOINTS
from diffoundry.serving.taken_arguments import taken_arguments

__all__ = ["Model", "find_model", "name_models"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """One bundle that is served.

    Attributes:
        name: As clients name it: the folder, without ".bundle"; of a chain those of its folders, joined by a plus.
        pipeline: Its pipeline.
        created: When the server opened it, in seconds since 1970.
        facts: Those of `model_facts`, once they were asked for: they take a while, and never change.
    """

    name: str
    pipeline: PipelineBase
    created: int
    facts: dict[str, Any] = field(default_factory=dict)

    def endpoints(self) -> tuple[str, ...]:
        """Return the endpoints below /v1/images/ that this bundle can answer."""
        takes_image = "image" in self.pipeline.argument_names
        starts = "image" in self.pipeline.example_inputs  # the default call needs an image
        if not self.pipeline.needs_prompt:
            return ("variations",) if takes_image else ("generations",)
        return (*(() if starts else ("generations",)), *(("edits",) if takes_image else ()))

    def parameters(self) -> list[str]:
        """Return the parameters of this bundle that are arguments of its pipeline, or images."""
        known = frozenset[str]().union(*(ENDPOINTS[name] for name in self.endpoints()))
        names = known & taken_arguments(self.pipeline)
        return sorted(names | ({"mask"} if "mask_image" in names else set()))

    def describe(self) -> dict[str, Any]:
        """Return OpenAI's object of a model, with more facts beside. Runs in a thread, since it may read files."""
        if not self.facts:
            self.facts.update(model_facts(self.pipeline))
        bundle = self.pipeline.session.bundle
        try:
            height, width = self.pipeline.default_size
            size = f"{width}x{height}"
        except DiffoundryError:  # its config does not say, so that a call must
            size = None
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "diffoundry",
            "pipeline_class": "+".join(one.bundle.pipeline_class for one in self.pipeline.sessions),
            "endpoints": [f"/v1/images/{name}" for name in self.endpoints()],
            "default_size": size,
            "parameters": self.parameters(),
            "presets": sorted(read_presets(bundle)),
            **self.facts,
        }


def name_models(pipelines: Iterable[PipelineBase], created: int) -> dict[str, Model]:
    """Return the models by name.

    Raises:
        InputError: Two folders have one name, a name cannot be part of an address, or a bundle makes no images.
        BundleError: The presets of a bundle are damaged.
    """
    models: dict[str, Model] = {}
    for pipeline in pipelines:
        bundles = [session.bundle for session in pipeline.sessions]
        root = "+".join(str(bundle.root) for bundle in bundles)
        if not pipeline.makes_images:
            raise InputError(
                f"BUNDLE {root}: a {bundles[-1].pipeline_class} makes no images, expected a bundle that does; add the "
                f"one after it with a plus: {root}+DECODER"
            )
        name = "+".join(bundle.root.resolve().name.removesuffix(".bundle") for bundle in bundles)
        if not re.fullmatch(r"[\w.@+-]{1,100}", name):
            raise InputError(f"BUNDLE {root}: its name cannot be that of a model; use letters, digits, ., - and _")
        if name in models:
            raise InputError(f"BUNDLE {root}: another bundle is served as {name!r} already; rename one of the folders")
        read_presets(pipeline.session.bundle)
        models[name] = Model(name=name, pipeline=pipeline, created=created)
    return models


def find_model(models: Mapping[str, Model], name: str | None) -> Model:
    """Return the model of a request.

    Raises:
        ApiError: None has this name, or several are served and none is named.
    """
    if name is None:
        if len(models) == 1:
            return next(iter(models.values()))
        raise ApiError(400, f"model: got none, expected one of {', '.join(models)}", param="model", code="missing")
    if name not in models:
        raise ApiError(
            404, f"model: got {name[:100]!r}, expected {_one_of(models)}.{did_you_mean(name[:100], models)}",
            param="model", code="model_not_found",
        )  # fmt: skip
    return models[name]


def _one_of(names: Iterable[str]) -> str:
    listed = list(names)
    return f"one of {', '.join(listed)}" if len(listed) > 1 else repr(listed[0])

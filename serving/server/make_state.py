"""Makes the state of a server of pipelines."""

import time
from collections.abc import Iterable
from pathlib import Path

from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.serving.lora_folder import LoraFolder
from diffoundry.serving.server.image_store import ImageStore
from diffoundry.serving.server.jobs import Jobs
from diffoundry.serving.server.limits import Limits
from diffoundry.serving.server.metrics import Metrics
from diffoundry.serving.server.models import name_models
from diffoundry.serving.server.read_request import BodyBudget
from diffoundry.serving.server.security import ApiKeys
from diffoundry.serving.server.state import ServerState

__all__ = ["make_state"]


def make_state(
    pipelines: Iterable[PipelineBase],
    dispatcher: Dispatcher,
    limits: Limits,
    *,
    created: int | None = None,
    loras: Path | None = None,
    keys: ApiKeys | None = None,
    origins: tuple[str, ...] = (),
    loopback: bool = True,
) -> ServerState:
    """Return the state of a server.

    Args:
        pipelines: Of the bundles.
        dispatcher: Runs their calls; the server closes it.
        limits: Limits.
        created: When the models were opened, in seconds since 1970; None is now.
        loras: Folder of the LoRAs that clients may name; None allows none.
        keys: API keys; None lets anyone use the server.
        origins: As `ServerState.origins`.
        loopback: As `ServerState.loopback`.

    Raises:
        InputError: Two bundles have one name.
        BundleError: The presets of a bundle are damaged.
    """
    store = ImageStore(limits)
    return ServerState(
        models=name_models(pipelines, int(time.time()) if created is None else created),
        dispatcher=dispatcher,
        loras=LoraFolder(loras),
        keys=keys or ApiKeys(),
        limits=limits,
        jobs=Jobs(),
        store=store,
        metrics=Metrics(dispatcher, store),
        budget=BodyBudget(limits),
        origins=origins,
        loopback=loopback,
    )

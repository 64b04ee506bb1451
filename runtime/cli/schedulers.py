"""`diffoundry schedulers`: lists the schedulers that run on a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.console import make_table, out, print_json
from diffoundry.runtime.cli.help import Command
from diffoundry.runtime.cli.options import bundle_argument, json_option
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.runtime.pipelines import entry_of_bundle
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.schedulers.names import fitting_schedulers, resolve_scheduler, scheduler_words
from diffoundry.runtime.schedulers.registry import scheduler_class

__all__ = ["command", "is_flow_bundle", "list_schedulers", "main_scheduler_folder", "require_scheduler_folder"]

_EXAMPLES = ("diffoundry schedulers emoji.bundle",)


@click.command("schedulers", cls=Command, examples=_EXAMPLES)
@bundle_argument
@json_option
def command(bundle: Path, *, as_json: bool) -> None:
    """List the schedulers that run on the bundle DIR, by the short names and the class names of --scheduler."""
    opened = Bundle(bundle)
    default, words = list_schedulers(opened)
    if as_json:
        print_json({"default": default, "schedulers": words})
        return
    table = make_table("class", "short names", "")
    for name, short in words.items():
        table.add_row(name.removesuffix("Scheduler"), ", ".join(short), "the bundle's" if name == default else "")
    out.print(table)
    if _only_scheduler(opened):
        out.print(f"The loop of {opened.pipeline_class} runs no other.")
        return
    out.print(
        "Each name takes a noise schedule at its end, where its class has one: dpmpp_2m_karras, euler_beta, "
        "dpmpp_2m_exponential."
    )


def list_schedulers(bundle: Bundle) -> tuple[str, dict[str, list[str]]]:
    """Return the class name of a bundle's own scheduler, and the short names of every class that runs on it.

    Raises:
        BundleError: It is of a family this version does not know.
        InputError: It has no scheduler.
    """
    config = bundle.read_object(f"{require_scheduler_folder(bundle)}/scheduler_config.json")
    flow, only = is_flow_bundle(bundle), _only_scheduler(bundle)
    fitting = [only] if only else [name for name in fitting_schedulers(flow=flow) if _takes(name, config)]
    words: dict[str, list[str]] = {name: [] for name in fitting}
    for word in scheduler_words(flow=flow, fitting=fitting):
        words[resolve_scheduler(word, flow=flow).cls.__name__].append(word)
    return str(config.get("_class_name")), words


def _only_scheduler(bundle: Bundle) -> str | None:
    """Return the only scheduler that the loop of a bundle runs; None where there is a choice."""
    found: str | None = getattr(resolve(entry_of_bundle(bundle).runtime), "only_scheduler", None)
    return found


def is_flow_bundle(bundle: Bundle) -> bool:
    """Return True for a flow-matching model, whose pipeline scales neither noise nor latents.

    Raises:
        BundleError: It is of a family this version does not know.
    """
    return not resolve(entry_of_bundle(bundle).runtime).scales_latents


def main_scheduler_folder(bundle: Bundle) -> str | None:
    """Return the folder of the scheduler that --scheduler replaces; None of a bundle without schedulers.

    Raises:
        BundleError: The bundle is of a family this version does not know.
    """
    kind = resolve(entry_of_bundle(bundle).runtime)
    folders = kind.scheduler_folders if issubclass(kind, StagedPipeline) else ("scheduler",)
    return folders[-1] if folders else None


def require_scheduler_folder(bundle: Bundle) -> str:
    """Return the folder of the scheduler that --scheduler replaces.

    Raises:
        BundleError: As `main_scheduler_folder`.
        InputError: The bundle has no scheduler.
    """
    folder = main_scheduler_folder(bundle)
    if folder is None:
        raise InputError(
            f"bundle {bundle.root}: got a {bundle.pipeline_class}, which has no scheduler and no steps; choose the "
            f"scheduler of the bundle that it is chained with"
        )
    return folder


def _takes(name: str, config: Mapping[str, Any]) -> bool:
    """Return True if a scheduler's class accepts the bundle's config."""
    try:
        scheduler_class(name).from_config(config)
    except DiffoundryError:
        return False
    return True

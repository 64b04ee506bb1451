"""`diffoundry set`: changes the scheduler of a bundle, and seals the bundle again."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.edit_config import complete_edit, replace_json
from diffoundry.runtime.cli.completion import complete_change
from diffoundry.runtime.cli.console import out, print_json
from diffoundry.runtime.cli.help import Command
from diffoundry.runtime.cli.options import bundle_argument, json_option
from diffoundry.runtime.cli.scheduler_options import parse_value
from diffoundry.runtime.cli.schedulers import is_flow_bundle, require_scheduler_folder
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.names import fitting_schedulers, resolve_scheduler
from diffoundry.runtime.schedulers.registry import scheduler_from_config
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["command"]

_CONFIG = "scheduler_config.json"

_EXAMPLES = (
    "diffoundry set sd15.bundle scheduler=dpmpp_2m_karras",
    "diffoundry set sd15.bundle scheduler.beta_end=0.02 scheduler.timestep_spacing=trailing",
)


@click.command("set", cls=Command, examples=_EXAMPLES)
@bundle_argument
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...", shell_complete=complete_change)
@json_option
def command(bundle: Path, changes: tuple[str, ...], *, as_json: bool) -> None:
    """Change the default scheduler of the bundle DIR, or options of it, and record the new checksum.

    KEY is scheduler, or scheduler.OPTION with an option of diffusers. Other configs describe the graphs, so for them
    the checkpoint must be exported again. 'diffoundry schedulers DIR' lists the schedulers that fit.
    """
    for path in sorted(bundle.glob(f"*scheduler/{_CONFIG}")):  # an edit that was interrupted keeps a bundle shut
        complete_edit(bundle, path.relative_to(bundle).as_posix())
    opened = Bundle(bundle)
    config = f"{require_scheduler_folder(opened)}/{_CONFIG}"
    before = opened.read_json(config)
    if not isinstance(before, Mapping):
        raise InputError(f"{bundle / config}: got {type(before).__name__}, expected an object; export the bundle again")
    after = dict(before)
    for text in changes:
        after = _changed(after, text, flow=is_flow_bundle(opened))
    replace_json(opened, config, after)
    changed = {
        name: {"before": before.get(name), "after": value}
        for name, value in sorted(after.items())
        if before.get(name) != value
    }
    defaults = {field.name: field.default for field in fields(type(scheduler_from_config(after)).Options)}
    if as_json:
        print_json({"file": config, "changed": changed})
        return
    for name, values in changed.items():
        if name not in before and values["after"] == defaults.get(name):
            continue  # written out by another class, and without effect
        out.print(f"{name}: {json.dumps(values['before'])} -> {json.dumps(values['after'])}", soft_wrap=True)
    out.print(f"{bundle}: {config} {'is written' if changed else 'was right already'}", soft_wrap=True)


def _changed(config: Mapping[str, Any], text: str, *, flow: bool) -> dict[str, Any]:
    """Apply one KEY=VALUE to a scheduler's config.

    Raises:
        InputError: No such key, or a scheduler that does not fit the bundle.
        ConfigError: The scheduler refuses the option or its value.
    """
    key, equals, value = text.partition("=")
    part, _, option = key.partition(".")
    if not equals or part != "scheduler":
        raise InputError(f"{text}: got the key {key!r}, expected scheduler=NAME or scheduler.OPTION=VALUE")
    if not option:
        fitting = fitting_schedulers(flow=flow)
        choice = resolve_scheduler(value, flow=flow, fitting=fitting)
        if choice.cls.__name__ not in fitting:
            raise InputError(
                f"{text}: {choice.cls.__name__} does not run on this bundle; 'diffoundry schedulers DIR' lists those "
                f"that do"
            )
        return choice.cls.from_config(config, **choice.options).to_config()
    cls = type(scheduler_from_config(config, **{option: parse_value(value)}))  # refuses unknown keys and wrong values
    known = {field.name for field in fields(cls.Options)}
    if option not in known:
        raise InputError(
            f"{text}: {cls.__name__} has no option {option!r}, so it would have no effect."
            f"{did_you_mean(option, known)} Choose another option, or another scheduler first"
        )
    return {**config, option: parse_value(value)}

"""Options that several commands share."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.bundle.bundle import tell_unchecked
from diffoundry.runtime.bundle.hub import find_bundle
from diffoundry.runtime.cli.completion import complete_precision, complete_target
from diffoundry.runtime.cli.console import remark
from diffoundry.runtime.cli.help import options_in, typed_name
from diffoundry.runtime.cli.open_pipeline import find_chain, split_chain
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import DiffoundryError, InputError, UnknownArgumentError
from diffoundry.runtime.suggest import nearest_words

__all__ = [
    "SEED",
    "bundle_argument",
    "bundles_argument",
    "engine_options",
    "json_option",
    "named_as_typed",
    "take_engine_options",
    "tell_choice",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class _SeedType(click.ParamType[int]):
    """A whole number that fits the 64 bits of torch's seeds."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number, and refuse one that torch would not take."""
        seed = int(click.INT.convert(value, param, ctx))
        if not -(2**63) <= seed < 2**64:
            self.fail(
                f"{seed} does not fit 64 bits, expected a whole number from -2**63 to 2**64 - 1, as torch takes it.",
                param,
                ctx,
            )
        return seed


SEED = _SeedType()
"""Type of the option --seed."""


def _find(context: click.Context, _parameter: click.Parameter, value: str) -> Path:
    """Find the folder of a bundle; one on the hub is downloaded, except while the shell completes a line.

    Raises:
        InputError: It is a chain.
    """
    if context.resilient_parsing:
        return Path(value)
    if len(split_chain(value)) > 1:
        raise InputError(
            f"DIR: got the chain {value}, expected one bundle: only 'diffoundry generate' and 'diffoundry serve' run "
            f"chains; pass each bundle alone"
        )
    return find_bundle(value)


def _find_bundles(context: click.Context, _parameter: click.Parameter, value: str) -> tuple[Path, ...]:
    return (Path(value),) if context.resilient_parsing else find_chain(value, "DIR")


bundles_argument = click.argument("bundle", type=click.Path(), callback=_find_bundles, metavar="DIR")

bundle_argument = click.argument("bundle", type=click.Path(), callback=_find, metavar="DIR")

json_option = options_in("Output")("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_engine = options_in("Engine")

_MOST_THREADS = max(16, 4 * (os.cpu_count() or 1))
"""More never help, and engines that wait for a million of them never end."""

_TARGET_HELP = "Use the engines of this target."

_ENGINE_OPTIONS = (
    _engine("--target", shell_complete=complete_target, envvar="DIFFOUNDRY_TARGET", help=_TARGET_HELP),
    _engine("--precision", shell_complete=complete_precision, help="Use the engines of this precision."),
    _engine(
        "--device",
        envvar="DIFFOUNDRY_DEVICE",
        help="Device of the target: cpu, gpu, cuda:0 ...  [default: the target's first]",
    ),
    _engine(
        "--threads",
        envvar="DIFFOUNDRY_THREADS",
        type=click.IntRange(1, _MOST_THREADS),
        help="Threads of one engine call.",
    ),
    _engine(
        "--hint",
        "engine_hint",  # "hint" is an argument of pipelines
        type=click.Choice(["latency", "throughput"]),
        help="Optimize engines for latency or throughput.",
    ),
    _engine(
        "--cache-dir",
        envvar="DIFFOUNDRY_CACHE_DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep compiled engines in this folder.",
    ),
    _engine("--native/--no-native", default=True, help="Use diffoundry's own kernels where installed."),
)


def engine_options(command: Command) -> Command:
    """Add --target, --precision, --device and the other options that select engines and how they run."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


def take_engine_options(values: dict[str, Any]) -> dict[str, Any]:
    """Move the values of `engine_options` out of a command's arguments, as keyword arguments for `load`."""
    names = ("device", "threads", "cache_dir", "native")
    options = EngineOptions(**{name: values.pop(name) for name in names}, hint=values.pop("engine_hint"))
    return {"target": values.pop("target"), "precision": values.pop("precision"), "options": options}


def tell_choice(components: EngineSession) -> None:
    """Report which engines of a bundle cannot run here and why, and that a folder without a manifest was not checked.

    Raises:
        EngineError: Some component has no engine that can run here.
    """
    tell_unchecked(components.bundle)
    for sentence in components.notes():
        remark(f"note: {sentence}; another engine of the bundle is used")


_STAGES = ("prior", "decoder", "super_res")
_STAGE_SETTINGS = {"num_inference_steps", "guidance_scale"}
"""Arguments that stages have of their own. A command without an option for each stage gives all of them one value."""


@contextmanager
def named_as_typed() -> Iterator[None]:
    """Name arguments of a pipeline in its errors as the options that the user typed; also a decorator of commands.

    "num_inference_steps: got 0" becomes "--steps: got 0". An argument that the pipeline does not have becomes an
    `InputError` with the nearest options that it takes.
    """
    ctx = click.get_current_context()
    names: dict[str, str] = {}
    for parameter in ctx.command.params:
        spellings = [word[2:].replace("-", "_") for word in getattr(parameter, "also", ())]
        names |= {str(name): typed_name(ctx, parameter) for name in (parameter.name, *spellings)}
    for setting in _STAGE_SETTINGS & names.keys():
        names = {f"{stage}_{setting}": names[setting] for stage in _STAGES} | names
    try:
        for name, value in ctx.params.items():
            if any(isinstance(one, float) and not math.isfinite(one) for one in _entries(value)):
                raise InputError(f"{name}: got {value}, expected a finite number")
        yield
    except UnknownArgumentError as error:
        options = [name for name in error.known if names.get(name, "").startswith("-")]
        near = [names[name] for name in nearest_words(error.name, options)]
        advice = f". Did you mean {' or '.join(near)}?" if near else "; leave it out"
        option = names.get(error.name, error.name)
        raise InputError(f"{option}: no such argument of this pipeline{advice}") from error
    except DiffoundryError as error:
        error.args = (_name_options(str(error), names),)
        raise


def _entries(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _name_options(message: str, names: Mapping[str, str]) -> str:
    """Replace names of arguments: with underscores anywhere, plain words as the subject only; nothing in quotes."""
    subject, colon, rest = message.partition(":")
    if colon and re.fullmatch(r"[a-z_0-9]+( and [a-z_0-9]+)*", subject):
        subject = " and ".join(names.get(word, word) for word in subject.split(" and "))
    words = sorted((name for name in names if "_" in name), key=len, reverse=True)
    plain = "(?:(?<=pass )|(?<=pass height and ))(?:image|height|width|prompt|seed)|(?<=set_timesteps: got )timesteps"
    pattern = rf"'[^']*'|(?<![\w-])(?:{'|'.join(words)}|{plain})(?!\w)"
    return re.sub(pattern, lambda found: names.get(found[0], found[0]), f"{subject}{colon}{rest}")

"""`diffoundry serve`: answers OpenAI's images API with bundles."""

import ipaddress
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.cli.console import print_json, remark, size_text, warn
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.open_pipeline import find_chain, open_pipeline
from diffoundry.runtime.cli.options import engine_options, json_option, take_engine_options, tell_choice
from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.engines.available_memory import own_memory
from diffoundry.runtime.errors import InputError, MissingExtraError
from diffoundry.serving.server.limits import Limits

__all__ = ["command"]

_address = options_in("Address")
_access = options_in("Access")
_limits = options_in("Limits")
_running = options_in("Running")

_EXAMPLES = (
    "diffoundry serve emoji.bundle",
    "diffoundry serve sd15.bundle sdxl.bundle --port 8080 --lora-dir loras",
    "diffoundry serve sdxl.bundle+sdxl-refiner.bundle",
    "diffoundry serve sd15.bundle --host 0.0.0.0 --api-key-file keys.txt --queue 32 --time-limit 120",
)

_MOST_SECONDS = 10**6

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def _size(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read a size such as 500MB.

    Raises:
        InputError: Anything else.
    """
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(kB|MB|GB)", value)
    size = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise InputError(f"{parameter.opts[0]}: got {value!r}, expected a size such as 500MB or 1.2GB")
    return size


def _find_bundles(context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[tuple[Path, ...]]:
    return [(Path(value),) if context.resilient_parsing else find_chain(value, "BUNDLE") for value in values]


def _origins(_context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Read origins such as https://example.org.

    Raises:
        InputError: Anything else.
    """
    for value in values:
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", value):
            raise InputError(f"{parameter.opts[0]}: got {value!r}, expected an origin such as https://example.org")
    return tuple(values)


_SECONDS = click.FloatRange(min=0, min_open=True, max=_MOST_SECONDS)


@click.command("serve", cls=Command, examples=_EXAMPLES)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(), metavar="BUNDLE...", callback=_find_bundles)
@_address("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 is every one.  [default: 127.0.0.1]")
@_address("--port", type=click.IntRange(0, 65535), default=8000, help="0 is a free one.  [default: 8000]")
@_access(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Answer only clients with an API key of this file, one a line.",
)
@_access(
    "--lora-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Let clients name LoRAs of this folder.",
)
@_access(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    callback=_origins,
    help="Let pages of this origin use the server, such as https://example.org. May be repeated.",
)
@_limits("--queue", type=click.IntRange(min=1), default=64, help="Jobs that may wait.  [default: 64]")
@_limits("--active", type=click.IntRange(min=1), default=8, help="Jobs that run at once.  [default: 8]")
@_limits("--time-limit", type=_SECONDS, help="Seconds of a job, waiting included.  [default: none]")
@_limits("--drain-time", type=_SECONDS, default=30, help="Seconds for jobs to finish at the end.  [default: 30]")
@_limits("--max-body", metavar="SIZE", callback=_size, default="50MB", help="Of one request.  [default: 50MB]")
@_limits(
    "--max-image-pixels",
    type=click.IntRange(min=1),
    default=32_000_000,
    help="Pixels of all images of one request.  [default: 32000000]",
)
@_limits(
    "--max-result-pixels",
    type=click.IntRange(min=1),
    default=2048 * 2048,
    help="Pixels of one result.  [default: 4194304, 2048 x 2048]",
)
@_limits(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=256,
    help="Open at once; each job holds one.  [default: 256]",
)
@_limits(
    "--memory", metavar="SIZE", callback=_size,
    help="Memory that running jobs may take together.  [default: what the machine has]",
)  # fmt: skip
@_running("--batching/--no-batching", default=True, help="Join engine calls of different jobs.  [default: on]")
@_running("--no-safety-checker", is_flag=True, help="Skip the bundles' safety checkers.")
@_running("--low-memory", is_flag=True, help="Load one component at a time.")
@engine_options
@json_option
def command(
    bundles: list[tuple[Path, ...]],
    *,
    host: str,
    port: int,
    no_safety_checker: bool,
    low_memory: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Serve each BUNDLE over HTTP with OpenAI's images API, until Ctrl-C.

    The name of a model is that of its folder. PRIOR+DECODER serves a chain as one model, as generate runs it. Needs
    the extra `serve`.
    """
    try:
        from diffoundry.serving.server.log import write_log
        from diffoundry.serving.server.make_state import make_state
        from diffoundry.serving.server.run import bind, serve
        from diffoundry.serving.server.security import read_keys
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("diffoundry"):
            raise
        raise MissingExtraError("'diffoundry serve'", error.name, "serve") from error
    folder = _lora_folder(values["lora_dir"])
    path = values["api_key_file"]
    keys = None if path is None else read_keys(path)
    engines = take_engine_options(values)
    listener = bind(host, port)
    with listener:
        engines |= {"low_memory": low_memory, "safety_checker": not no_safety_checker}
        pipelines = [open_pipeline(one, **engines) for one in bundles]
        for session in [session for pipeline in pipelines for session in pipeline.sessions]:
            tell_choice(session)
        _check_memory(values["memory"])
        dispatcher = Dispatcher(
            max_active=values["active"], max_queued=values["queue"], batching=values["batching"],
            memory=values["memory"],
        )  # fmt: skip
        state = make_state(
            pipelines, dispatcher, _read_limits(values), created=int(time.time()), loras=folder, keys=keys,
            origins=values["cors_origin"], loopback=_is_loopback(host),
        )  # fmt: skip
        write_log()
        _tell(host, listener.getsockname()[1], list(state.models), as_json=as_json)
        if keys is None and not state.loopback:
            warn(f"warning: --host {host} lets every machine of the network generate images; pass --api-key-file, too")
        serve(state, listener)
        for pipeline in pipelines:
            pipeline.close()


def _check_memory(memory: int | None) -> None:
    """Refuse a limit that the server exceeds before its first job.

    Raises:
        InputError: As said.
    """
    held = own_memory()[0]
    if memory is not None and memory <= held:
        raise InputError(
            f"--memory: got {size_text(memory)}, expected more than the {size_text(held)} that this server holds "
            f"before it opens an engine; a job needs its engines as well"
        )


def _lora_folder(folder: Path | None) -> Path | None:
    """Return the folder of LoRAs.

    Raises:
        InputError: It is none.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"--lora-dir {folder}: got no folder, expected one with .safetensors files")
    return folder


def _read_limits(values: dict[str, Any]) -> Limits:
    return Limits(
        body_bytes=values["max_body"],
        held_bytes=4 * values["max_body"],
        image_pixels=values["max_image_pixels"],
        result_pixels=values["max_result_pixels"],
        job_seconds=values["time_limit"],
        drain_seconds=values["drain_time"],
        connections=values["max_connections"],
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell(host: str, port: int, models: list[str], *, as_json: bool) -> None:
    """Print the address, on standard output as JSON where asked for."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    if as_json:
        print_json({"url": url, "models": models})
    else:
        remark(f"serving {', '.join(models)} at {url}; the API is at {url}/v1, Ctrl-C stops")

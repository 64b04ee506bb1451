"""The table of commands, each imported when it is called, and the exit codes of errors."""

import errno
import io
import signal
import sys
import threading
import traceback
from typing import NoReturn

import click

import diffoundry
from diffoundry.runtime.cli.console import prepare_output, stop_output
from diffoundry.runtime.cli.path_errors import path_sentence
from diffoundry.runtime.cli.safe_text import safe_text
from diffoundry.runtime.cli.verbosity import is_verbose, reset_verbosity, verbosity_options
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import DiffoundryError, MissingExtraError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["COMMANDS", "run"]

COMMANDS = {
    "export": ("diffoundry.exporter.cli.export:command", "Compile a checkpoint into a bundle."),
    "convert": ("diffoundry.exporter.cli.convert:command", "Rewrite pickled weights as safetensors."),
    "build": ("diffoundry.exporter.cli.build:command", "Add engines to a bundle, from its own graphs."),
    "generate": ("diffoundry.runtime.cli.generate:command", "Generate images with a bundle."),
    "serve": ("diffoundry.serving.cli.serve:command", "Serve bundles over HTTP with OpenAI's images API."),
    "deploy": ("diffoundry.serving.cli.deploy:command", "Write a folder that another server opens."),
    "verify": ("diffoundry.exporter.cli.verify:command", "Compare a bundle with PyTorch: component, step, image."),
    "compare": ("diffoundry.exporter.cli.compare:command", "Compare a bundle's engines with each other."),
    "tune": ("diffoundry.exporter.cli.tune:command", "Search the fastest approximation within a budget."),
    "bench": ("diffoundry.runtime.cli.bench:command", "Measure a bundle's latency and memory."),
    "inspect": ("diffoundry.runtime.cli.inspect:command", "Show what a bundle holds."),
    "schedulers": ("diffoundry.runtime.cli.schedulers:command", "List the schedulers that run on a bundle."),
    "set": ("diffoundry.runtime.cli.set:command", "Change a bundle's scheduler."),
    "targets": ("diffoundry.runtime.cli.targets:command", "List targets and what they need here."),
}
"""Command to ("module:attribute", its line in --help). The exporter's commands need the extra `export`."""

_EXAMPLES = (
    "diffoundry export emoji --target onnxruntime -o emoji.bundle",
    'diffoundry generate emoji.bundle "red apple"',
)

_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """Imports a command when it is called, and lists all commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in COMMANDS:
            return None
        reference = COMMANDS[cmd_name][0]
        try:
            command: click.Command = resolve(reference)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("diffoundry"):
                raise
            extra = "export" if ".exporter." in reference else "cli"
            raise MissingExtraError(f"'diffoundry {cmd_name}'", error.name, extra) from error
        _let_interrupt()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and suggest the nearest for an unknown word."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Write the two commands to begin with, as typed."""
        with formatter.section("Try"):
            for line in _EXAMPLES:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, params=verbosity_options())
@click.version_option(diffoundry.__version__, message="%(version)s")
def group() -> None:
    """Compile diffusion pipelines into engines, and run them without PyTorch."""


def run() -> None:
    """Run the command that was typed. An error of the user ends in one sentence."""
    prepare_output()
    reset_verbosity()
    try:
        try:
            group.main(standalone_mode=False, prog_name="diffoundry")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        sys.stderr.write(safe_text(text.getvalue()))
        sys.exit(error.exit_code)
    except DiffoundryError as error:
        if is_verbose():
            sys.stderr.write(safe_text(traceback.format_exc()))
        sys.exit(f"error: {safe_text(str(error))}")
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _exit_for(error)
    finally:
        _let_interrupt()


def _exit_for(error: OSError) -> NoReturn:
    """End for an error of standard output, or of a path."""
    if stop_output(error):
        if error.errno == errno.EPIPE:  # as after `| head`
            sys.exit(1)
        sys.exit(f"error: standard output cannot be written ({error.strerror}); free some space, or write it elsewhere")
    sentence = path_sentence(error, sys.argv[1:])
    if sentence is None:
        raise error
    if is_verbose():
        sys.stderr.write(safe_text(traceback.format_exc()))
    sys.exit(f"error: {safe_text(sentence)}")


def _let_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: from here on a command may have something to tidy up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)

"""Runs damaged files one by one, each in a forked process with bounds of time and memory.

Usage: python run_cases.py FOLDER FIRST COUNT. Prints a line of JSON for each case that ends in neither a result nor one
of our errors, and one with the counts.
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from random import Random

sys.path.append(str(Path(__file__).parents[1] / "support"))

from mutate import mutate
from mutate_containers import mutate_png, mutate_safetensors
from small_bundle import seal
from subjects import SUBJECTS, Subject

_MEMORY = 3 << 30
"""Bytes of address space that a case may take besides those of its parent."""

_CPU_SECONDS = 10
_WALL_SECONDS = 120


def run(folder: Path, first: int, count: int) -> Counter[str]:
    """Run the cases `first` to `first + count - 1`; report failures."""
    sound = {subject.name: _write(folder, subject) for subject in SUBJECTS}
    weights = [subject.weight for subject in SUBJECTS]
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        random = Random(seed)
        (subject,) = random.choices(SUBJECTS, weights)
        root = folder / subject.name.replace("/", "-")
        name = random.choice(sorted(sound[subject.name]))
        content = sound[subject.name][name]
        (root / name).write_bytes(_mutate(subject, name, content, random))
        manifest = root / "diffoundry.json"
        own = manifest.read_bytes() if subject.sealed else b""
        if subject.sealed and name != manifest.name and random.random() < 0.9:
            seal(root, name)
        outcome = _run_case(subject, root, root / name, random)
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("failed"):
            _print({"seed": seed, "subject": subject.name, "file": name, "outcome": outcome})
        (root / name).write_bytes(content)
        if subject.sealed and name != manifest.name:
            manifest.write_bytes(own)
    return counts


def _write(folder: Path, subject: Subject) -> dict[str, bytes]:
    """Write the sound files of a subject, check that they are read, and return those that are damaged."""
    root = folder / subject.name.replace("/", "-")
    root.mkdir(parents=True)
    subject.write(root)
    paths = sorted({path for pattern in subject.files for path in root.glob(pattern) if path.is_file()})
    outcome = _run_case(subject, root, paths[0], Random(0))
    if outcome != "read":
        raise SystemExit(f"the sound files of {subject.name!r} are not read: {outcome}")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def _mutate(subject: Subject, name: str, content: bytes, random: Random) -> bytes:
    if subject.kind == "png":
        return mutate_png(content, random)
    if subject.kind == "safetensors":
        return mutate_safetensors(content, random)
    kinds = {".json": "json", ".txt": "text"}
    return mutate(content, random, kind=subject.kind or kinds.get(Path(name).suffix, "bytes"))


def _run_case(subject: Subject, root: Path, path: Path, random: Random) -> str:
    """Return "read", "refused", or "failed: ..."."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        _run_child(subject, root, path, random, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb") as stream:
        said = stream.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    if said:
        return said
    if os.WIFSIGNALED(status):
        return f"failed: ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"failed: ended with {os.waitstatus_to_exitcode(status)}"


def _run_child(subject: Subject, root: Path, path: Path, random: Random, sender: int) -> None:
    from diffoundry.runtime.errors import DiffoundryError

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(_WALL_SECONDS)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        subject.read(root, path, random)
        said = "read"
    except DiffoundryError as error:
        said = "refused" if _is_sentence(str(error)) else f"failed: no sentence: {str(error)[:300]!a}"
    except BaseException:  # noqa: BLE001  # the report names it
        said = f"failed: {traceback.format_exc()[-1500:]}"
    os.write(sender, said.encode(errors="replace")[:60_000])
    os._exit(0)


def _print(record: object) -> None:
    sys.stdout.write(f"{json.dumps(record)}\n")
    sys.stdout.flush()


def _is_sentence(text: str) -> bool:
    """Return whether a message can be shown: not empty, not endless, valid Unicode without control characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(text) and len(text) < 20_000


if __name__ == "__main__":
    import onnxruntime  # noqa: F401  # once, before the forks
    import PIL.Image  # noqa: F401

    import diffoundry.exporter.checkpoints.checkpoint
    import diffoundry.runtime.cli.generate
    import diffoundry.runtime.pipelines.pipeline
    import diffoundry.targets.onnxruntime.run.engine
    import diffoundry.targets.openvino.run.engine  # noqa: F401

    _print(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

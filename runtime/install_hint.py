"""Names the command that adds an optional part to this installation of diffoundry."""

from typing import Any

__all__ = ["install_command", "install_models_command"]


def install_command(extra: str) -> str:
    """Return a pip command that installs the libraries of an extra here, such as `pip install -e '.[cli]'`.

    It follows from the origin that pip recorded: a clone, a file, or a repository. Without a record the libraries
    are named one by one, which works wherever diffoundry came from.

    Args:
        extra: Name of the extra: "cli", "export", "onnxruntime" ...
    """
    try:
        requires, recorded = _origin()
    except (ImportError, ValueError):
        return f"pip install 'diffoundry[{extra}]'"
    if not isinstance(recorded, dict) or not isinstance(recorded.get("url"), str):
        libraries = _libraries(requires, extra)
        return f"pip install {' '.join(libraries)}" if libraries else f"pip install 'diffoundry[{extra}]'"
    return f"pip install {_source(recorded, extra)}"


def install_models_command() -> str:
    """Return a pip command that installs the demo models: from the clone that this installation came from, if any."""
    import os

    try:
        _, recorded = _origin()
        clone = _local_path(str(recorded["url"]))
    except (ImportError, ValueError, KeyError, TypeError):
        clone = None
    if clone is None or not os.path.isdir(f"{clone}/models"):
        return "pip install ./models (in a clone of the repository)"
    return f"pip install '{clone}/models'"


def _origin() -> tuple[list[str], Any]:
    """Return the requirements of this installation, and the origin that pip recorded: {} without a record.

    Raises:
        ImportError: diffoundry is not installed as a distribution.
        ValueError: The record is no JSON.
    """
    import json  # here and elsewhere: messages alone need these modules
    from importlib.metadata import distribution

    installed = distribution("diffoundry")
    return installed.requires or [], json.loads(installed.read_text("direct_url.json") or "{}")


def _source(recorded: dict[str, Any], extra: str) -> str:
    """Return the argument of pip for the recorded origin, with the extra."""
    url = str(recorded["url"])
    commit = recorded.get("vcs_info")
    if isinstance(commit, dict):
        return f"'diffoundry[{extra}] @ {commit.get('vcs', 'git')}+{url}@{commit.get('commit_id', '')}'"
    path = _local_path(url)
    if path is None:
        return f"'diffoundry[{extra}] @ {url}'"
    folder = recorded.get("dir_info")
    editable = "-e " if isinstance(folder, dict) and folder.get("editable") else ""
    return f"{editable}'{path}[{extra}]'"


def _local_path(url: str) -> str | None:
    """Return the path of a file URL, "." for the current folder; None for another URL."""
    import os
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    path = url2pathname(parts.path)
    return "." if os.path.realpath(path) == os.path.realpath(os.curdir) else path


def _libraries(requirements: list[str], extra: str) -> list[str]:
    """Return the requirements of an extra, quoted for a shell; the metadata has lines `click>=8.1; extra == "cli"`."""
    found = []
    for line in requirements:
        library, _, marker = line.partition(";")
        if marker.replace("'", '"').replace(" ", "") == f'extra=="{extra}"':
            found.append(f"'{library.strip()}'")
    return found

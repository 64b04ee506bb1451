"""Describes a deployment of bundles to Ray Serve."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.identity import identify
from diffoundry.runtime.cli.open_pipeline import find_chain
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import InputError, MissingExtraError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["build", "images_app"]


def images_app(
    *bundles: str | Path,
    min_replicas: int = 1,
    max_replicas: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    models_per_replica: int = 3,
    active: int = 8,
    queue: int = 64,
    target: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    api_key_file: str | Path | None = None,
    lora_dir: str | Path | None = None,
) -> Any:
    """Return an application for `serve.run`.

    Each replica answers OpenAI's images API as `diffoundry serve` does, and has a method `generate` for handles. Its
    requests share a dispatcher, which joins their engine calls. With several bundles the header
    `serve_multiplexed_model_id`, or `multiplexed_model_id` of a handle, names the one of a request.

    Args:
        bundles: Folders, at the same path on every machine of the cluster; or ids on the Hugging Face hub. Two or more
            that are joined by a plus are a chain, and one model.
        min_replicas: Replicas without load; 0 lets Ray end the last one.
        max_replicas: Replicas under load. Ray adds one when more than half of `active` requests run on each.
        num_cpus: CPUs that Ray reserves for a replica.
        num_gpus: GPUs likewise; Ray hides them from replicas that reserve none.
        models_per_replica: Bundles that a replica keeps open; the one unused for longest is closed for another.
        active: Requests that a replica runs at once.
        queue: Requests that may wait in Ray, which refuses more with status 503.
        target: As `load`, like the three that follow.
        precision: See there.
        device: See there.
        threads: See there; None for `num_cpus`, or 1 where that is less.
        api_key_file: As `--api-key-file` of `diffoundry serve`, read on this machine; for clients over HTTP.
        lora_dir: As `--lora-dir`, at the same path on every machine.

    Raises:
        InputError: No bundle, two of one name, a number that is too small, or a file or folder that cannot be used.
        MissingExtraError: Ray is not installed.
    """
    numbers = {"min_replicas": min_replicas, "max_replicas": max_replicas, "models_per_replica": models_per_replica,
               "active": active, "queue": queue}  # fmt: skip
    for name, value in numbers.items():
        least = 0 if name == "min_replicas" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: got {value!r}, expected a whole number of at least {least}")
    if max_replicas < min_replicas:
        raise InputError(f"max_replicas: got {max_replicas}, expected at least min_replicas, {min_replicas}")
    options = EngineOptions(device=device, threads=threads or max(1, int(num_cpus)))
    named = _name_bundles(bundles)
    serve, module = _import_ray()
    given = module.ReplicaOptions(
        bundles=named,
        identity=identify([path for paths in named.values() for path in paths]),
        engines={"target": target, "precision": precision, "options": options},
        active=active,
        queue=queue,
        keys=module.read_keys(None if api_key_file is None else Path(api_key_file)),
        loras=None if lora_dir is None else _lora_folder(Path(lora_dir)),
    )
    base = module.BundleReplica
    opener = serve.multiplexed(max_num_models_per_replica=models_per_replica)(base.open_model)
    replica = type("BundleReplica", (base,), {"open_model": opener, "__doc__": base.__doc__})
    deployment = serve.deployment(
        serve.ingress()(replica),
        name="BundleReplica",
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=active,
        max_queued_requests=queue,
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": max(1, active // 2),
        },
    )
    return deployment.bind(given)


def _import_ray() -> tuple[Any, Any]:
    """Return Ray Serve, and the module of the replicas, which needs the extra `serve` as well.

    Raises:
        MissingExtraError: One of their packages is not installed.
    """
    try:
        from ray import serve

        from diffoundry.serving.ray import replica
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("diffoundry"):
            raise
        raise MissingExtraError("diffoundry.serving.ray", error.name, "ray") from error
    return serve, replica


def _lora_folder(folder: Path) -> Path:
    """Return the folder, absolute.

    Raises:
        InputError: It is none.
    """
    if not folder.is_dir():
        raise InputError(f"lora_dir: got {str(folder)!r}, which is no folder, expected one with .safetensors files")
    return folder.resolve()


def _name_bundles(bundles: tuple[str | Path, ...]) -> dict[str, tuple[Path, ...]]:
    """Return the folders by the names of their models, as `diffoundry serve` names them.

    Raises:
        InputError: None, or two of one name.
    """
    if not bundles:
        raise InputError("bundles: got none, expected at least one folder")
    found: dict[str, tuple[Path, ...]] = {}
    for bundle in bundles:
        paths = tuple(path.resolve() for path in find_chain(str(bundle), "bundles"))
        name = "+".join(path.name.removesuffix(".bundle") for path in paths)
        if name in found:
            both = " and ".join("+".join(map(str, one)) for one in (found[name], paths))
            raise InputError(f"bundles: got two named {name!r}, {both}; rename one of the folders")
        found[name] = paths
    return found


_KINDS: Mapping[str, Callable[[Any], Any]] = {
    "min_replicas": int, "max_replicas": int, "num_cpus": float, "num_gpus": float, "models_per_replica": int,
    "active": int, "queue": int, "target": str, "precision": str, "device": str, "threads": int,
    "api_key_file": str, "lora_dir": str,
}  # fmt: skip


def build(arguments: Mapping[str, Any]) -> Any:
    """Return an application for `serve run diffoundry.serving.ray:build bundles=FOLDER,FOLDER max_replicas=4`.

    Args:
        arguments: Those of `images_app` by name, as texts or, from a config file, of their type; `bundles` is a list,
            or a text with commas.

    Raises:
        InputError: As `images_app`; or an argument is unknown, or no number.
    """
    given = dict(arguments)
    bundles = given.pop("bundles", ())
    bundles = bundles.split(",") if isinstance(bundles, str) else bundles
    values = {}
    for name, value in given.items():
        if name not in _KINDS:
            known = ("bundles", *_KINDS)
            near = did_you_mean(name, known)
            raise InputError(f"{name}: no such argument.{near or ' Expected one of ' + ', '.join(known)}")
        try:
            values[name] = _KINDS[name](value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: got {value!r}, expected a number") from error
    return images_app(*bundles, **values)

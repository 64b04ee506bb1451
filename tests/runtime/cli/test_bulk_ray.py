"""`generate --ray`: what is refused without a cluster, and on a cluster images equal to those of one process."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffoundry.runtime.bundle import identity
from diffoundry.runtime.cli import bulk_ray, ray_workers
from diffoundry.runtime.cli.bulk import BulkFolder, BulkItem
from diffoundry.runtime.cli.bulk_job import BulkJob
from diffoundry.runtime.cli.bulk_ray import BulkWorker, generate_with_ray
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.cli.ray_workers import RayWorker, plan_workers
from diffoundry.runtime.errors import InputError, MissingExtraError

BULK = ("--prompts", "prompts.txt", "-o", "many", "--resume")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a file of prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red apple {number}" for number in range(12)))
    (tmp_path / "empty.bundle").mkdir()
    return tmp_path


def _generate(*words):
    result = CliRunner().invoke(command, list(map(str, words)))
    if isinstance(result.exception, (InputError, MissingExtraError)):
        raise result.exception
    return result


def test_refusals(here):
    for options, message in (
        (("a fox", "--ray", "auto"), "--ray: got no --prompts, expected a file of prompts; pass it, or leave --ray"),
        ((*BULK[:-1], "--ray", "auto"), "--ray: got no --resume, expected it, so that finished images are kept; pass"),
        (
            (*BULK, "--ray", "cluster"),
            "--ray: got 'cluster', expected HOST:PORT of a cluster, auto for the one of this",
        ),
        ((*BULK, "--ray", "http://a:1"), "--ray: got 'http://a:1', expected HOST:PORT of a cluster"),
        ((*BULK, "--ray", "a:65536"), "--ray: got 'a:65536', expected HOST:PORT of a cluster"),
    ):
        with pytest.raises(InputError, match=message):
            _generate("empty.bundle", *options)


def test_without_ray_the_extra_is_named(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"'--ray' needs the Python package 'ray', .*\[ray\]"):
        _generate("empty.bundle", *BULK, "--ray", "10.0.0.1:6379")


def test_an_address_where_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        InputError,
        match=rf"--ray 127.0.0.1:{port}: the cluster cannot be used \(.*Connection refused\); start one",
    ):
        ray_workers._connect(None, f"127.0.0.1:{port}")


def test_a_cluster_that_does_not_start():
    class Slow:
        """Ray on a busy machine."""

        def init(self, **_):
            raise Exception("The current node timed out during startup. This could happen")  # Ray's

    with pytest.raises(InputError, match=r"--ray local: the cluster cannot be used \(The current node timed out"):
        ray_workers._connect(Slow(), "local")


def test_workers_for_the_machines():
    def node(cpus, gpus=0, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}}

    nodes = [node(8), node(16), node(0), node(64, alive=False)]
    assert plan_workers(nodes, None, gpu=False) == (2, {"num_cpus": 8})
    assert plan_workers(nodes, 4, gpu=False) == (6, {"num_cpus": 4})
    assert plan_workers(nodes, 12, gpu=False) == (1, {"num_cpus": 12})
    assert plan_workers([node(8, 2), node(8, 1)], None, gpu=True) == (3, {"num_cpus": 1, "num_gpus": 1})
    assert plan_workers([], None, gpu=False) == (1, {"num_cpus": 1})


def test_gpus_are_reserved_for_options_that_name_one():
    for target, device, expected in (
        ("tensorrt", None, True), ("onnxruntime", "cuda:1", True), (None, "gpu", True), ("openvino", "cpu", False),
        (None, None, False),
    ):  # fmt: skip
        assert ray_workers._needs_gpu(target, device) is expected


def _open(bundle, place, known=None):
    """Open a worker in this process; `known` is what the command knows, by default what is true."""
    job = BulkJob(bundles=(bundle,), engines={}, settings={}, defaulted=frozenset(), files={})
    known = identity.identify([bundle]) if known is None else known
    return BulkWorker().open(known, [bundle], pickle.dumps((job, place)), str(place))


def test_a_machine_that_is_not_ready(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle, missing = Path("a.bundle"), tmp_path / "missing"
    assert _open(bundle, missing) == (
        f"--ray: a worker's machine cannot open the folder {missing} (No such file or directory); start the command in "
        f"a folder that every machine of the cluster shares"
    )
    bundle.mkdir()
    (bundle / "diffoundry.json").write_text("{}")
    host = f"--ray: the worker on {socket.gethostname()}"
    known = identity.identify([bundle])
    (bundle / "diffoundry.json").write_text("{ }")
    assert _open(bundle, tmp_path, known) == (
        f"{host} has another bundle at a.bundle than the machine of the command; copy the same one to every machine of "
        f"the cluster"
    )
    assert _open(bundle, tmp_path).startswith("a.bundle/diffoundry.json: got no format_version")
    monkeypatch.setattr("diffoundry.__version__", "0.0.1")
    assert _open(bundle, tmp_path, known) == (
        f"{host} has diffoundry 0.0.1, expected {known['diffoundry']}; install the same version on every machine of "
        f"the cluster"
    )


@pytest.fixture(scope="module")
def cluster():
    """The address of a Ray cluster of this machine, for two workers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'diffoundry[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    context = ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 10**6, include_dashboard=False, logging_level="ERROR"
    )
    yield context.address_info["address"]
    ray.shutdown()


def _start(bundle, folder, *options):
    words = [
        str(bundle), "--prompts", "prompts.txt", "-o", folder, "--resume", "--seed", "5", "--steps", "6", "--threads",
        "1", *options,
    ]  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "diffoundry", "generate", *words], stderr=subprocess.PIPE, text=True)


def _wait_for(condition, process):
    until = time.monotonic() + 600
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def _workers(owner):
    """Return the processes of workers in the cluster that a process started."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ray::BulkWorker.work" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if parents.get(parents[pid]) == owner]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_killed_workers_and_a_killed_command_lose_nothing(cluster, emoji_bundle, here):
    """Workers are killed, then the command; the same command on its own cluster finishes, with one process's files.

    The first command finds the cluster of the fixture, and the second one starts a cluster for itself.
    """
    many = here / "many"

    def count():
        return len(list(many.glob("*.png")))

    def kill_a_worker(command, owner):
        start = count()
        _wait_for(lambda: count() >= start + 2, command)
        os.kill(_wait_for(lambda: _workers(owner), command)[0], signal.SIGKILL)
        killed_at = count()
        _wait_for(lambda: count() >= killed_at + 1, command)

    first = _start(emoji_bundle, "many", "--ray", "auto")
    kill_a_worker(first, os.getpid())
    first.kill()
    error = first.communicate()[1]
    assert "2 workers of Ray" in error
    assert "warning: a worker of Ray died while it " in error
    kept = {path.name: path.stat().st_mtime_ns for path in many.glob("*.png")}
    assert 3 <= len(kept) < 12
    second = _start(emoji_bundle, "many", "--ray", "local")
    kill_a_worker(second, second.pid)
    error = second.communicate(timeout=600)[1]
    assert second.returncode == 0, error
    assert f"many: {len(kept)} of 12 prompts are finished" in error
    assert "warning: a worker of Ray died while it " in error
    assert {name: (many / name).stat().st_mtime_ns for name in kept} == kept
    alone = _start(emoji_bundle, "alone")
    assert alone.wait(600) == 0
    for path in sorted((here / "alone").iterdir()):
        assert path.read_bytes() == (many / path.name).read_bytes(), path.name
    assert sorted(path.name for path in many.iterdir()) == sorted(path.name for path in (here / "alone").iterdir())


@pytest.mark.slow
def test_errors_of_workers(cluster, emoji_bundle, here):
    wrong = _start(emoji_bundle, "wrong", "--ray", cluster, "--steps", "0")
    assert wrong.wait(600) == 1
    assert "error: --steps: got 0, expected" in wrong.stderr.read()


class _Dying(RayWorker):
    """A worker that cannot live."""

    def prepare(self, _opening):
        pass

    def work(self, _item):
        os._exit(1)


@pytest.mark.slow
def test_a_prompt_that_kills_its_workers_ends_the_command(here, cluster, monkeypatch, capsys):
    import ray

    monkeypatch.setattr(bulk_ray, "BulkWorker", _Dying)
    monkeypatch.setattr(ray_workers, "_connect", lambda *_: None)  # this process is connected
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    item = BulkItem(prompt="a fox", seeds=(0,), files=("000001.png",))
    job = BulkJob(bundles=(), engines={}, settings={}, defaulted=frozenset(), files={})
    with pytest.raises(InputError, match=r"--ray: 3 workers died while they generated 000001.png \(.*\); what is"):
        list(generate_with_ray(job, BulkFolder(path=here, items=(item,)), [0], cluster))
    assert capsys.readouterr().err.count("a worker of Ray died while it generated 000001.png") == 2

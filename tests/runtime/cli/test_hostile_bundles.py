"""Bundles made to reach outside their folder: every command refuses each in one sentence, and touches nothing there."""

import json
import os
import shutil
import stat

import onnx
import pytest

from diffoundry.runtime.bundle.checksums import describe_file
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.cli.group import group
from diffoundry.runtime.errors import BundleError, DiffoundryError

_COMMANDS = {
    "inspect": ["inspect"],
    "generate": ["generate", "a", "--steps", "1", "-o", "x.png"],
    "bench": ["bench", "--warmups", "0", "--repeats", "1"],
    "verify": ["verify"],
    "compare": ["compare"],
    "build": ["build", "--target", "onnxruntime", "--precision", "fp16"],
}


class Hostile:
    """A bundle to tamper with, and a folder outside that nothing may touch."""

    def __init__(self, root, outside):
        self.root, self.outside = root, outside
        self.manifest = json.loads((root / "diffoundry.json").read_text())

    def save(self):
        (self.root / "diffoundry.json").write_text(json.dumps(self.manifest))

    def take_out(self, name):
        """Move a file outside, and return its new place."""
        return (self.root / name).rename(self.outside / "taken")

    def list(self, name):
        """Give a file of the bundle its sums in the manifest."""
        self.manifest["files"][name] = to_json(describe_file(self.root / name))
        self.save()

    def unet(self):
        return self.manifest["components"]["unet"]


def _hard_link(case):
    os.link(case.root / "unet/model.onnx", case.outside / "twin")


def _link_to_file(case):
    (case.root / "unet/model.onnx").symlink_to(case.take_out("unet/model.onnx"))


def _link_to_folder(case):
    (case.root / "tokenizer").symlink_to(case.take_out("tokenizer"))


def _link_inside(case):
    (case.root / "unet/model.onnx").rename(case.root / "unet/other.onnx")
    (case.root / "unet/model.onnx").symlink_to("other.onnx")


def _pipe(case):
    case.take_out("scheduler/scheduler_config.json")
    os.mkfifo(case.root / "scheduler/scheduler_config.json")


def _device(case):
    case.take_out("model_index.json")
    try:
        os.mknod(case.root / "model_index.json", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices are made by root")


def _folder_for_file(case):
    case.take_out("unet/model.onnx")
    (case.root / "unet/model.onnx").mkdir()


def _manifest_link(case):
    (case.root / "diffoundry.json").symlink_to(case.take_out("diffoundry.json"))


def _other_case(case):
    case.manifest["files"]["UNET/model.onnx"] = case.manifest["files"]["unet/model.onnx"]
    shutil.copytree(case.root / "unet", case.root / "UNET", dirs_exist_ok=True)
    case.save()


def _listed(name):
    def attack(case):
        case.manifest["files"][name.format(outside=case.outside)] = {"size": 6, "sha256": "0" * 64}
        case.save()

    return attack


def _used(field, name):
    def attack(case):
        path = name.format(outside=case.outside)
        engine = case.unet()["engines"][0]
        place = {"graph": case.unet(), "files": engine, "adapters": engine["adapters"]}[field]
        place["files" if field == "adapters" else field][0] = path
        case.manifest["files"][path] = {"size": 6, "sha256": "0" * 64}
        case.save()

    return attack


def _component(name):
    def attack(case):
        case.manifest["components"][name.format(outside=case.outside)] = case.unet()
        case.save()

    return attack


def _scheduler(content):
    def attack(case):
        name = "scheduler/scheduler_config.json"
        (case.root / name).write_text(json.dumps(content).replace("OUTSIDE", str(case.outside)))
        case.list(name)

    return attack


def _unlisted_weights(graph):
    def attack(case):
        """Plain in the folder, with the weights that they should be: only the manifest does not know them."""
        model = onnx.load(case.root / graph, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "extra"
        onnx.save(model, case.root / graph)
        shutil.copy(case.root / "unet/model.onnx_data", case.root / "unet/extra")
        case.list(graph)

    return attack


_PATHS = ("../outside/secret", "{outside}/secret", "unet/../../outside/secret", ".build/secret", "unet/.secret")

_OPENING = {
    "hard link": _hard_link,
    "link to a file": _link_to_file,
    "link to a folder": _link_to_folder,
    "link inside": _link_inside,
    "pipe": _pipe,
    "device": _device,
    "folder in a file's place": _folder_for_file,
    "link for the manifest": _manifest_link,
    "names that differ in case": _other_case,
    **{f"files {path}": _listed(path) for path in _PATHS},
    **{f"{field} {path}": _used(field, path) for field in ("graph", "files", "adapters") for path in _PATHS[:3]},
    **{f"component {name}": _component(name) for name in ("..", ".build", "{outside}", "unet/unet", "", "a:b")},
}
"""Attacks that every command refuses when it opens the bundle."""


@pytest.fixture
def hostile(exported, tiny_sd_checkpoint, tmp_path, monkeypatch):
    """A copy of the tiny bundle beside a folder with a secret, which is as it was afterwards."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "record.json").write_text("{}")
    root = shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "b", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path)
    yield Hostile(root, outside)
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "record.json").read_text() == "{}"
    assert {path.name for path in outside.iterdir()} <= {"secret", "record.json", "taken", "twin"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "outside"]


def _run(command, folder):
    name, *words = _COMMANDS[command]
    group.main([name, str(folder), *words], standalone_mode=False)


@pytest.mark.parametrize("attack", _OPENING)
def test_every_command_refuses_to_open_it(hostile, attack):
    _OPENING[attack](hostile)
    for command in _COMMANDS:
        with pytest.raises(BundleError) as caught:
            _run(command, "b")
        assert "\n" not in str(caught.value)
        assert any(end in str(caught.value) for end in ("do not trust this bundle", "copy it with", "copy the bundle"))


@pytest.mark.parametrize(
    "content", ["OUTSIDE", "OUTSIDE/record.json", [], None, 7, [["OUTSIDE"]]], ids=lambda content: json.dumps(content)
)
@pytest.mark.parametrize("command", ["inspect", "generate", "bench"])
def test_a_scheduler_config_is_an_object_and_no_path(hostile, content, command):
    _scheduler(content)(hostile)
    with pytest.raises(DiffoundryError, match=r"scheduler_config\.json holds \w+, expected an object"):
        _run(command, "b")


@pytest.mark.parametrize(
    ("graph", "command"),
    [
        ("unet/model.onnxruntime.onnx", "generate"),
        ("unet/model.onnxruntime.onnx", "bench"),
        ("unet/model.onnx", "build"),
    ],
)
def test_weights_that_the_manifest_does_not_list_are_not_used(hostile, graph, command):
    _unlisted_weights(graph)(hostile)
    with pytest.raises(DiffoundryError, match="the file 'extra', which the manifest does not list"):
        _run(command, "b")


@pytest.mark.slow
def test_links_of_hidden_names_are_left_alone(hostile):
    """`build` once deleted and wrote through them; now its work is beside the bundle."""
    (hostile.root / ".build").symlink_to(hostile.outside)
    (hostile.root / ".diffoundry.json").symlink_to(hostile.outside / "secret")
    (hostile.root / "unet/.model.fp16.onnx").symlink_to(hostile.outside / "secret")
    _run("build", "b")
    _run("inspect", "b")
    assert not list(hostile.root.rglob(".*"))


@pytest.mark.parametrize("kind", ["link", "file", "foreign", "link for its state", "link for its lock", "hard link"])
def test_a_work_folder_that_is_not_ours_is_refused(hostile, kind):
    work = hostile.root.with_name("b.build")
    if kind == "link":
        work.symlink_to(hostile.outside)
    elif kind == "file":
        work.touch()
    else:
        state = work / ".build"
        work.mkdir()
        if kind == "foreign":
            (work / "holiday.jpg").touch()
        elif kind == "link for its state":
            state.symlink_to(hostile.outside)
        else:
            state.mkdir()
            if kind == "hard link":
                os.link(hostile.outside / "secret", state / "recipe.json")
            else:
                (state / "lock").symlink_to(hostile.outside / "secret")
    with pytest.raises(DiffoundryError, match=r"bundle b: .*b\.build.*; move it away and run the command again"):
        _run("build", "b")
    if work.is_symlink() or work.is_file():
        work.unlink()
    else:
        assert kind != "foreign" or (work / "holiday.jpg").exists()
        shutil.rmtree(work)

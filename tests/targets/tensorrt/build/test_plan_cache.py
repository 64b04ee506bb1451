"""The cache of plans: what a key is made of, one build at a time, and what goes when there is too much."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from diffoundry.targets.tensorrt.build.job import BuildJob, ProfileShapes
from diffoundry.targets.tensorrt.build.plan_cache import PlanCache, plan_key


@pytest.fixture
def job(tmp_path):
    (tmp_path / "g.onnx").write_bytes(b"graph")
    (tmp_path / "g.data").write_bytes(b"weights")
    return BuildJob(
        target="tensorrt-rtx",
        graph=str(tmp_path / "g.onnx"),
        plan=str(tmp_path / "g.plan"),
        profiles=(ProfileShapes(name="a", shapes={"x": ((1, 2), (1, 2), (1, 4))}),),
        compute_capabilities=(89,),
        flags=("WEIGHT_STREAMING",),
    )


def key(job, *, version="1", gpu=""):
    return plan_key(job, [Path(job.graph).with_name("g.data")], version, gpu)


def test_everything_that_decides_what_is_built_is_in_the_key(job, tmp_path):
    keys = [
        key(job),
        key(job, version="2"),
        key(job, gpu="RTX 4090"),
        key(replace(job, target="tensorrt")),
        key(replace(job, compute_capabilities=(86,))),
        key(replace(job, flags=())),
        key(replace(job, refittable=("w",))),
        key(replace(job, profiles=(ProfileShapes(name="a", shapes={"x": ((1, 2), (1, 2), (1, 8))}),))),
    ]
    (tmp_path / "g.data").write_bytes(b"other w")
    keys.append(key(job))
    (tmp_path / "g.onnx").write_bytes(b"other")
    keys.append(key(job))
    assert len(set(keys)) == len(keys)


def test_where_files_lie_is_not_in_the_key(job, tmp_path):
    before = key(job)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("g.onnx", "g.data"):
        (tmp_path / name).rename(moved / name)
    assert key(replace(job, graph=str(moved / "g.onnx"), plan="x", timing_cache="y")) == before


def test_a_plan_is_built_once_even_by_several_at_once(tmp_path):
    cache, builds, results = PlanCache(tmp_path / "cache"), [], []

    def fetch(name):
        plan = tmp_path / name

        def build():
            builds.append(name)
            plan.write_bytes(b"plan of " + name.encode())
            return {"layers": 3}

        metadata, kept = cache.fetch("k", plan, build)
        results.append((metadata, kept, plan.read_bytes()))

    threads = [threading.Thread(target=fetch, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert sorted(kept for _, kept, _ in results) == [False, True, True, True]
    assert {(metadata["layers"], content) for metadata, _, content in results} == {
        (3, b"plan of " + builds[0].encode())
    }


def test_a_failed_build_leaves_nothing(tmp_path):
    cache = PlanCache(tmp_path / "cache")

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.fetch("k", tmp_path / "p", fail)
    assert list((tmp_path / "cache").glob("k.[pj]*")) == []
    _, kept = cache.fetch("k", tmp_path / "p", lambda: (tmp_path / "p").write_bytes(b"x") and {})
    assert not kept


def test_the_least_recently_used_go_when_there_is_too_much(tmp_path):
    cache = PlanCache(tmp_path / "cache", largest=250)

    def put(name):
        def build():
            (tmp_path / "p").write_bytes(b"x" * 100)
            return {}

        return cache.fetch(name, tmp_path / "p", build)[1]

    put("a")
    put("b")
    for name, age in (("a", 10), ("b", 20)):
        os.utime(tmp_path / f"cache/{name}.json", (age, age))
    assert put("a")
    put("c")
    assert sorted(path.stem for path in (tmp_path / "cache").glob("*.plan")) == ["a", "c"]
    assert sorted(path.stem for path in (tmp_path / "cache").glob("*.json")) == ["a", "c"]


def test_facts_are_kept_as_json(tmp_path):
    cache = PlanCache(tmp_path)
    cache.fetch("k", tmp_path / "p", lambda: (tmp_path / "p").write_bytes(b"x") and {"a": (1, 2)})
    assert json.loads((tmp_path / "k.json").read_text()) == {"a": [1, 2]}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_damaged_notes_mean_another_build(tmp_path, content):
    cache, builds = PlanCache(tmp_path / "cache"), []

    def build():
        builds.append(1)
        (tmp_path / "p").write_bytes(b"plan")
        return {"layers": 3}

    cache.fetch("k", tmp_path / "p", build)
    (tmp_path / "cache/k.json").write_bytes(content)
    assert cache.fetch("k", tmp_path / "p", build) == ({"layers": 3}, False)
    assert cache.fetch("k", tmp_path / "p", build) == ({"layers": 3}, True)
    assert len(builds) == 2

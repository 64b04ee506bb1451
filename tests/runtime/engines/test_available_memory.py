"""Memory that is left, from the files of a made-up Linux; and the sentence where it is not enough."""

import resource

import pytest

from diffoundry.runtime.engines import available_memory as module
from diffoundry.runtime.engines.available_memory import available_memory, check_memory, describe_bytes
from diffoundry.runtime.errors import InputError

GB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Write the files of a machine: name to text."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_D_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


MEMORY = f"MemTotal: {24 * GB // 1024} kB\nMemAvailable: {10 * GB // 1024} kB\nSwapFree: {2 * GB // 1024} kB\n"
OWN = {"proc__self__status": f"VmSize: {3 * GB // 1024} kB\nVmRSS: {GB // 1024} kB\n"}


def test_free_memory_swap_and_our_own_count(machine):
    assert available_memory(machine(proc__meminfo=MEMORY, **OWN)) == 13 * GB


def test_the_smallest_limit_of_the_control_groups_counts(machine):
    """Version 2: the limit of the outer group, less its use, and the files that it caches."""
    root = machine(proc__meminfo=MEMORY, proc__self__cgroup="0::/outer/inner\n", **OWN)
    outer, inner = root / "sys/fs/cgroup/outer", root / "sys/fs/cgroup/outer/inner"
    inner.mkdir(parents=True)
    for group, limit in ((outer, str(4 * GB)), (inner, "max")):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{2 * GB}\n")
    (outer / "memory.stat").write_text(f"anon 1\ninactive_file {GB}\nactive_file 0\n")
    assert available_memory(root) == (4 - 2 + 1 + 1) * GB


def test_version_1_of_control_groups(machine):
    root = machine(proc__meminfo=MEMORY, proc__self__cgroup="5:cpu:/a\n4:memory:/a\n0::/\n", **OWN)
    for path, limit in (("a", 3 * GB), (".", 2**63 - 4096)):
        group = root / "sys/fs/cgroup/memory" / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit))
        (group / "memory.usage_in_bytes").write_text(str(GB))
    assert available_memory(root) == 3 * GB


def test_a_limit_of_the_address_space_counts(machine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5 * GB, 5 * GB))
    assert available_memory(machine(proc__meminfo=MEMORY, **OWN)) == (5 - 3 + 1) * GB


def test_this_machine_has_less_than_all_its_memory(machine, tmp_path):
    everything = available_memory(tmp_path)  # nothing to read: all main memory
    assert 0 < available_memory() < everything + 64 * GB


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (900, "900 bytes"),
        (2_500_000, "2.5 MB"),
        (24 * 10**9, "24 GB"),
        (5 * 10**12, "5.0 TB"),
        (10**400, "more"),
    ],
)
def test_bytes_in_words(count, words):
    assert describe_bytes(count).startswith(words)


def test_too_little_memory_is_one_sentence(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 24 * 10**9)
    check_memory(24 * 10**9, "height: got 64, which takes", "choose a smaller one")
    message = "height: got 64, which takes at least 190 GB of memory; this machine has 24 GB available; choose"
    with pytest.raises(InputError, match=message):
        check_memory(190 * 10**9, "height: got 64, which takes", "choose a smaller one")
    monkeypatch.setattr(module, "available_memory", lambda: None)
    check_memory(190 * 10**9, "height: got 64, which takes", "choose a smaller one")
    with pytest.raises(InputError, match="at least 2252 TB of memory; no machine has; choose"):
        check_memory(2**51, "height: got 64, which takes", "choose a smaller one")

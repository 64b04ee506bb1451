"""Descriptions of machines, from lists of processors of several kinds."""

import re
import subprocess
import sys

import pytest

from diffoundry.runtime.bench.machine import machine_facts, peak_rss, thread_times

_X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu vme avx2 avx512f amx_bf16 avx512_bf16 amx_tile amx_int8
processor\t: 1
model name\t: another
"""

_ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""


def test_x86(tmp_path):
    (tmp_path / "cpuinfo").write_text(_X86)
    machine = machine_facts(tmp_path / "cpuinfo", tmp_path / "none")
    assert machine.cpu == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert machine.features == ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")


def test_an_arm_board_is_called_by_its_own_name(tmp_path):
    (tmp_path / "cpuinfo").write_text(_ARM)
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    machine = machine_facts(tmp_path / "cpuinfo", tmp_path / "model")
    assert machine.cpu == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.features == ("asimd", "asimdhp", "asimddp")


def test_without_lists_there_is_still_a_name(tmp_path):
    machine = machine_facts(tmp_path / "none", tmp_path / "none")
    assert machine.cpu
    assert machine.features == ()
    assert machine.cores >= 1


def test_libraries_of_the_runtime_are_named():
    import numpy as np

    assert machine_facts().libraries["numpy"] == np.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_this_process_s_own_and_remembers_the_peak(tmp_path):
    # A child of a large process: getrusage would report the parent's size here.
    ballast = bytearray(200 * 2**20)
    code = (
        "from diffoundry.runtime.bench.machine import peak_rss; a = peak_rss(); b = bytearray(64 * 2**20); del b; "
        "print(a, peak_rss())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert len(ballast) > before
    assert 60 * 2**20 < after - before < 80 * 2**20


def test_peak_memory_is_read_in_kilobytes(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")
    assert peak_rss(tmp_path / "status") == 2048 * 1024


def test_peak_memory_is_unknown_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert peak_rss(tmp_path / "none") is None


def test_thread_times_are_summed_over_threads(tmp_path):
    for thread, line in (("1", "100 7 3\n"), ("2", "20 5 1\n"), ("3", "")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(line)
    assert thread_times(tmp_path) == (120, 12)
    assert thread_times(tmp_path / "none") is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_thread_times_grow_with_work():
    before = thread_times()
    sum(range(10**6))
    assert thread_times()[0] > before[0]


def test_measuring_needs_neither_torch_nor_onnx():
    code = (
        "import sys; from diffoundry.runtime.bench import bench; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'diffusers', 'click', 'rich', 'psutil'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_library_is_named_with_its_version(scripted_bundle):
    from diffoundry.runtime.bench import BenchRequest, bench

    facts = bench(scripted_bundle, BenchRequest(steps=1, repeats=1)).candidates[0].facts
    assert re.fullmatch(r"onnxruntime(-gpu)? [\d.]+", facts["library"])
    assert (facts["target"], facts["device"]) == ("onnxruntime", "cpu")

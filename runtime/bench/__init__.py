"""Benchmarks: time and memory of a bundle on this machine, alone or beside baselines at the same work. NumPy only.

from diffoundry.runtime.bench import BenchRequest, bench

report = bench("emoji.bundle", BenchRequest(prompt="red apple", steps=20))
report.candidates[0].measured.step.seconds.median

The JSON form, `to_json(report)`, is described in docs/how-to/benchmark.md.
"""

from diffoundry.runtime.bench.candidate import Candidate, Generation
from diffoundry.runtime.bench.engines import bench_engines
from diffoundry.runtime.bench.measure import bench, compare
from diffoundry.runtime.bench.report import BenchReport
from diffoundry.runtime.bench.request import BenchRequest

__all__ = ["BenchReport", "BenchRequest", "Candidate", "Generation", "bench", "bench_engines", "compare"]

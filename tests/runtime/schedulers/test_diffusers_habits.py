"""Lines written for diffusers' schedulers: devices, `return_dict`, torch's generators, `from_pretrained`."""

import copy
import re
from dataclasses import dataclass

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime import schedulers
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.random import TorchCpuGenerator, TorchCudaGenerator, as_generators, randn_tensor
from diffoundry.runtime.schedulers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    Scheduler,
    StepResult,
    register_scheduler,
    resolve_scheduler,
    scheduler_class,
    scheduler_from_config,
)
from diffoundry.runtime.schedulers.options import SchedulerOptions

SHAPE = (2, 4, 8, 8)
SAMPLE = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
NAMES = (
    "DDIM",
    "DDPM",
    "DPMSolverMultistep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "LCM",
    "PNDM",
    "UniPCMultistep",
)


def test_the_lines_of_a_diffusers_loop_give_its_numbers():
    for name in NAMES:
        ours, theirs = scheduler_class(f"{name}Scheduler")(), getattr(diffusers, f"{name}Scheduler")()
        mine, generator = (torch.Generator().manual_seed(3) for _ in range(2))
        torch.randn(5, generator=generator)
        torch.randn(5, generator=mine)  # a state that no seed has
        ours.set_timesteps(4, device="cpu")
        theirs.set_timesteps(4, device="cpu")
        arguments = {"generator": mine} if name not in ("PNDM", "UniPCMultistep") else {}
        for t in theirs.timesteps[:2]:
            more = {"generator": generator} if arguments else {}
            expected = theirs.step(torch.tensor(SAMPLE) * 0.1, t, torch.tensor(SAMPLE), return_dict=False, **more)
            got = ours.step(SAMPLE * 0.1, float(t), SAMPLE, return_dict=False, **arguments)
            assert type(got) is tuple
            assert len(got) == len(expected), name
            np.testing.assert_allclose(got[0], expected[0].numpy(), atol=2e-5, err_msg=name)
        assert torch.equal(mine.get_state(), generator.get_state()), name
        kept = ours.step(SAMPLE * 0.1, float(t), SAMPLE, return_dict=True, **arguments)
        assert isinstance(kept.prev_sample, np.ndarray)


def test_devices_of_set_timesteps():
    for name in ("EulerDiscrete", "LCM", "DDPMParallel", "Helios", "ScoreSdeVe", "RePaint", "SCM", "KDPM2Discrete"):
        options = {"use_dynamic_shifting": False} if name == "Helios" else {}
        scheduler, stage = (
            scheduler_class(f"{name}Scheduler")(**options),
            {"stage_index": 0} if name == "Helios" else {},
        )
        planned = []
        for device in (None, "cpu", torch.device("cpu")):
            scheduler.set_timesteps(2, device=device, **stage)
            planned.append(scheduler.timesteps.tolist())
        assert planned[0] == planned[1] == planned[2], name
        with pytest.raises(InputError, match=re.escape("set_timesteps: device is 'cuda:0', expected 'cpu', because")):
            scheduler.set_timesteps(2, device=torch.device("cuda:0"), **stage)
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(3, "cpu")
    assert len(scheduler.timesteps) == 3


def test_generators_of_torch_are_continued_and_others_named():
    ours, theirs = (torch.Generator().manual_seed(2**40 + 1) for _ in range(2))
    for shape in (SHAPE, (3,), (1, 16)):
        np.testing.assert_array_equal(randn_tensor(shape, ours), torch.randn(shape, generator=theirs).numpy())
        assert torch.equal(ours.get_state(), theirs.get_state())
    pair = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    expected = [TorchCpuGenerator(seed).randn((1, *SHAPE[1:])) for seed in (1, 2)]
    np.testing.assert_array_equal(randn_tensor(SHAPE, pair), np.concatenate(expected))
    taken = as_generators(ours)
    assert (taken.kind, taken.seed) == ("torch-cpu", 2**40 + 1)
    fork, expected = copy.deepcopy(taken), torch.rand(20, generator=theirs).numpy()
    np.testing.assert_array_equal(fork.rand((20,)), expected)
    np.testing.assert_array_equal(taken.rand((20,)), expected)  # the fork left it where it was
    for wrong, sentence in {
        "rng": "generator: got numpy.random._generator.Generator, expected seed=0, a torch.Generator, or diffoundry",
        "state": "NumpyGenerator(0) draws the numbers of numpy.random.RandomState(0)",
        "int": "diffoundry.runtime.random.TorchCpuGenerator(0), which draws the same; pass seed=7",
        "text": "generator: got str",
    }.items():
        value = {"rng": np.random.default_rng(0), "state": np.random.RandomState(0), "int": 7, "text": "0"}
        with pytest.raises(InputError, match=re.escape(sentence)):
            as_generators(value[wrong])


class FakeCuda:
    """A `torch.Generator` on CUDA, which this machine lacks: the same attributes and layout of the state."""

    def __init__(self, seed, offset, kind="cuda"):
        self.state = torch.from_numpy(np.array([seed, offset], "<u8").view(np.uint8))
        self.device = torch.device(kind)

    def get_state(self):
        return self.state.clone()

    def set_state(self, state):
        self.state = state.clone()

    def initial_seed(self):
        return int(self.state.numpy().view("<u8")[0])


FakeCuda.__module__, FakeCuda.__name__ = "torch._C", "Generator"


def test_generators_on_cuda_are_continued(monkeypatch):
    class Properties:
        multi_processor_count, max_threads_per_multi_processor = 108, 2048

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    expected = TorchCudaGenerator(5, multiprocessors=108)
    expected.randn((100,))
    taken = FakeCuda(5, expected.offset)
    np.testing.assert_array_equal(randn_tensor((50,), taken), expected.randn((50,)))
    assert taken.state.numpy().view("<u8").tolist() == [5, expected.offset]
    with pytest.raises(InputError, match="generator: got a torch.Generator on 'mps', expected one on 'cpu' or 'cuda'"):
        as_generators(FakeCuda(5, 0, "mps"))
    with pytest.raises(InputError, match=r"expected uint8, \(16,\)"):
        expected.set_state(np.zeros(5056, np.uint8))


def test_from_pretrained_reads_a_subfolder(tmp_path):
    diffusers.EulerDiscreteScheduler(beta_end=0.015, use_karras_sigmas=True).save_pretrained(tmp_path / "scheduler")
    ours = EulerDiscreteScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert ours.config.beta_end == 0.015
    assert EulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler", beta_end=0.018).config.beta_end == 0.018
    ours.save_pretrained(tmp_path / "again")
    assert diffusers.EulerDiscreteScheduler.from_pretrained(tmp_path / "again").config.use_karras_sigmas
    with pytest.raises(ConfigError, match="cannot be read"):
        EulerDiscreteScheduler.from_pretrained(tmp_path)


def test_tensors_are_refused():
    scheduler = EulerAncestralDiscreteScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(
        InputError, match="Scheduler.step: got torch.Tensor, expected NumPy arrays; pass tensor.numpy()"
    ):
        scheduler.step(torch.zeros(SHAPE), scheduler.timesteps[0], SAMPLE)
    with pytest.raises(InputError, match="Scheduler.step: got torch.Tensor, expected NumPy arrays"):
        scheduler.step(model_output=SAMPLE, timestep=scheduler.timesteps[0], sample=torch.zeros(SHAPE))
    with pytest.raises(InputError, match="Scheduler.add_noise: got torch.Tensor, expected NumPy arrays"):
        scheduler.add_noise(torch.zeros(SHAPE), torch.zeros(SHAPE), torch.tensor([1]))
    with pytest.raises(InputError, match="Scheduler.scale_model_input: got torch.Tensor, expected NumPy arrays"):
        scheduler.scale_model_input(torch.zeros(SHAPE), scheduler.timesteps[0])
    for value in ([1.0], None):
        with pytest.raises(InputError, match=f"Scheduler.step: got {type(value).__name__}, expected a NumPy array"):
            scheduler.step(value, scheduler.timesteps[0], SAMPLE)


def test_a_scheduler_of_your_own(monkeypatch):
    monkeypatch.setattr(schedulers.registry, "_REGISTERED", {})

    @dataclass(frozen=True, kw_only=True)
    class HalvingOptions(SchedulerOptions):
        divisor: int = 2

    @register_scheduler
    class HalvingScheduler(Scheduler[HalvingOptions]):
        Options = HalvingOptions

        def _training_schedule(self):
            return schedulers.base.Schedule(np.arange(10)[::-1].copy(), None, None)

        def _schedule(self, request):
            return schedulers.base.Schedule(np.arange(request.steps)[::-1].copy(), None, request.steps)

        def step(self, model_output, timestep, sample, *, generator=None):
            return StepResult(sample / self.options.divisor)

    made = scheduler_from_config({"_class_name": "HalvingScheduler"})
    made.set_timesteps(3, device="cpu")
    (halved,) = made.step(SAMPLE, 2, SAMPLE, return_dict=False)
    np.testing.assert_array_equal(halved, SAMPLE / 2)
    made = HalvingScheduler.from_config({"divisor": 4, "beta_end": 0.015})
    assert made.config.divisor == 4
    assert EulerDiscreteScheduler.from_config(made.config).config.beta_end == 0.015  # other options are kept unused
    assert resolve_scheduler("halving").cls is HalvingScheduler
    assert schedulers.HalvingScheduler is HalvingScheduler
    with pytest.raises(InputError, match="register_scheduler: got <class 'int'>, expected a subclass of Scheduler"):
        register_scheduler(int)
    with pytest.raises(InputError, match="got EulerDiscreteScheduler, which is a scheduler of diffusers; rename the"):
        register_scheduler(EulerDiscreteScheduler)


def test_an_installed_package_names_a_scheduler(monkeypatch):
    class Entry:
        def load(self):
            return type("PackagedScheduler", (EulerDiscreteScheduler,), {})

    found = {"PackagedScheduler": [Entry()]}
    monkeypatch.setattr(schedulers.registry, "_REGISTERED", {})
    monkeypatch.setattr(schedulers.registry, "entry_points", lambda group, name: found.get(name, []))
    assert scheduler_class("PackagedScheduler").__name__ == "PackagedScheduler"

"""The training loop: a fixed schedule of steps, averaged weights, checkpoints that resume exactly."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from diffoundry.runtime.errors import CheckpointError, DiffoundryError
from diffoundry_models.emoji.training.checkpoint import load_state, save_state

__all__ = ["Options", "Run", "Session", "TrainingTask", "learning_rate", "train"]

_CLIP_NORM = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Settings that determine the trained weights; a resumed run must have the same.

    Attributes:
        steps: length of the schedule.
        batch: images a step.
        lr: the highest learning rate.
        warmup: steps over which the rate rises to it.
        decay: of the averaged weights, once the average is long enough.
        seed: of initial weights, batches and noise.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.999
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Settings that determine only when to write and to stop.

    Attributes:
        resume: continue from the stage's checkpoint where there is one.
        minutes: stop, resumably, after this long; None: run to the end of the schedule.
        save_every: steps between checkpoints.
        report: takes each line of progress.
        report_every: seconds between two lines.
    """

    resume: bool = False
    minutes: float | None = None
    save_every: int = 200
    report: Callable[[str], None] = print
    report_every: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTask:
    """One stage's work.

    Attributes:
        stage: its name.
        module: the trained module: its parameters with gradients.
        loss: draws a batch from the random stream and computes its loss.
        data: identity of the training data; a resumed run must have the same.
    """

    stage: str
    module: nn.Module
    loss: Callable[[torch.Generator], torch.Tensor]
    data: str


class Run:
    """State that changes while a stage trains: weights, their average, the optimizer, the random stream, the step.

    All random numbers come from one generator on the processor. Its state is the whole state, and a GPU sees the same
    batches and noise.
    """

    def __init__(self, task: TrainingTask, options: Options) -> None:
        self.task = task
        self.options = options
        self.module = task.module
        self.averaged = copy.deepcopy(task.module).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(_trained(task.module), lr=options.lr)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step = 0

    @property
    def finished(self) -> bool:
        """Return whether the schedule has ended."""
        return self.step >= self.options.steps

    def advance(self) -> torch.Tensor:
        """Take one step and return its loss, a float32 scalar."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options, self.step)
        loss = self.task.loss(self.generator)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(_trained(self.module), _CLIP_NORM)
        self.optimizer.step()
        self.step += 1
        self._average()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Collect the state as tensors and plain values."""
        return {
            "stage": self.task.stage,
            "options": asdict(self.options),
            "data": self.task.data,
            "step": self.step,
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            CheckpointError: the state is of another stage, other options or other data.
        """
        mine = {"stage": self.task.stage, **asdict(self.options), "data": self.task.data}
        theirs = {"stage": state["stage"], **state["options"], "data": state["data"]}
        changed = [f"{key} {theirs.get(key)} (now {mine[key]})" for key in mine if mine[key] != theirs.get(key)]
        if changed:
            raise CheckpointError(
                f"The checkpoint of stage '{self.task.stage}' was made with {', '.join(changed)}. "
                "Resume with the same settings, or train into another folder."
            )
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    @torch.no_grad()
    def _average(self) -> None:
        # A young average forgets fast, or it would keep the initial weights for long.
        decay = min(self.options.decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.averaged.parameters(), self.module.parameters(), strict=True)
        means, values = zip(*((mean, value) for mean, value in pairs if value.requires_grad), strict=True)
        average: Any = get_ema_multi_avg_fn  # untyped; one launch for all on a GPU
        average(decay)(means, values, self.step)


def learning_rate(options: Options, step: int) -> float:
    """Compute a linear rise over `warmup` steps times a cosine from `lr` at step 0 towards 0 at step `steps`.

    Loshchilov and Hutter 2017, equation 5, https://arxiv.org/abs/1608.03983, one period.
    """
    rise = min(1.0, (step + 1) / max(1, options.warmup))
    return options.lr * rise * 0.5 * (1 + math.cos(math.pi * step / options.steps))


def train(
    task: TrainingTask, options: Options, session: Session, file: Path, write: Callable[[nn.Module], None]
) -> bool:
    """Train one stage to the end of its schedule or of the session's time.

    Args:
        task: the stage's work.
        options: its schedule.
        session: settings for writing and stopping.
        file: the stage's checkpoint.
        write: saves the averaged weights as components; called before the last checkpoint, so that a finished
            checkpoint means that they are written.

    Returns:
        True if the schedule has ended.

    Raises:
        CheckpointError: there is a checkpoint and `session.resume` is off, or it does not fit.
        DiffoundryError: the loss is no longer a number.
    """
    run = _open(task, options, session, file)
    if run.finished:
        session.report(f"{task.stage}: finished before, at step {run.step}")
        return True
    meter = _Meter(run, session)
    for _ in range(run.step, options.steps):
        meter.add(run.advance())
        if meter.out_of_time:
            break
        if run.step % session.save_every == 0 and not run.finished:
            meter.check()
            save_state(run.state(), file)
    meter.finish()
    write(run.averaged)
    save_state(run.state(), file)
    if not run.finished:
        session.report(f"{task.stage}: stopped at step {run.step} of {options.steps}; --resume continues it")
    return run.finished


class _Meter:
    """Prints mean loss since the last line, images per second, and the time left."""

    def __init__(self, run: Run, session: Session) -> None:
        self._run = run
        self._session = session
        self._started = self._last = time.monotonic()
        self._first_step = run.step
        self._losses: list[torch.Tensor] = []

    @property
    def out_of_time(self) -> bool:
        minutes = self._session.minutes
        return minutes is not None and time.monotonic() - self._started > 60 * minutes

    def add(self, loss: torch.Tensor) -> None:
        self._losses.append(loss)
        if time.monotonic() - self._last > self._session.report_every:
            self.line()

    def check(self) -> None:
        """Stop a run whose loss is no longer finite, before it reaches a checkpoint."""
        if self._losses:
            self._mean()

    def finish(self) -> None:
        if self._losses:
            self.line()

    def line(self) -> None:
        run, mean = self._run, self._mean()
        self._losses.clear()
        self._last = time.monotonic()
        pace = (run.step - self._first_step) / max(1e-9, self._last - self._started)
        left = timedelta(seconds=round((run.options.steps - run.step) / pace))
        self._session.report(
            f"{run.task.stage}: step {run.step}/{run.options.steps}, loss {mean:.4f}, "
            f"rate {learning_rate(run.options, run.step - 1):.1e}, "
            f"{pace * run.options.batch:.0f} images/s, left {left}"
        )

    def _mean(self) -> float:
        mean = float(torch.stack(self._losses).mean())
        if not math.isfinite(mean):
            raise DiffoundryError(
                f"{self._run.task.stage}: the loss is {mean} near step {self._run.step}. "
                "The last checkpoint is sound: train again with a lower --lr."
            )
        return mean


def _open(task: TrainingTask, options: Options, session: Session, file: Path) -> Run:
    run = Run(task, options)
    if not file.exists():
        return run
    if not session.resume:
        raise CheckpointError(
            f"{file} holds an earlier run of stage '{task.stage}'. "
            "Continue it with --resume, or train into another folder."
        )
    run.restore(load_state(file))
    return run


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]

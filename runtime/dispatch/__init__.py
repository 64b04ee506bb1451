"""Runs many requests at once: a queue, fair turns, shared engine calls."""

from diffoundry.runtime.dispatch.dispatcher import Dispatcher
from diffoundry.runtime.dispatch.progress import Listener, Progress, State
from diffoundry.runtime.dispatch.request import Request
from diffoundry.runtime.dispatch.statistics import ComponentStatistics, Statistics

__all__ = ["ComponentStatistics", "Dispatcher", "Listener", "Progress", "Request", "State", "Statistics"]

"""CUDA's runtime as `cuda.bindings.runtime` shows it, on host memory.

As on a real machine: every function returns a status first; memory of the host and of each GPU are different memory;
what is put on a stream happens later, here at the latest possible moment, when the stream is waited for; the current
GPU is a matter of each thread; a stream that records runs nothing.
"""
# ruff: noqa: N815  # the names are NVIDIA's

import ctypes
import enum
import threading
from types import SimpleNamespace

_ALIGNMENT = 256


class Status(enum.IntEnum):
    """`cudaError_t`: the values of those that occur."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidMemcpyDirection = 21
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorStreamCaptureUnsupported = 900


class Kind(enum.IntEnum):
    """`cudaMemcpyKind`."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Mode(enum.IntEnum):
    """`cudaStreamCaptureMode`."""

    cudaStreamCaptureModeThreadLocal = 1


_WORDS = {
    Status.cudaErrorMemoryAllocation: b"out of memory",
    Status.cudaErrorInsufficientDriver: b"CUDA driver version is insufficient for CUDA runtime version",
    Status.cudaErrorInvalidMemcpyDirection: b"invalid copy direction for memcpy",
}


class FakeCuda:
    """The module. Each GPU is (capability, name, bytes of memory)."""

    cudaError_t = Status
    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = Mode

    def __init__(self, gpus=((89, "GeForce RTX 4090", 1 << 30),), driver=True):
        self.gpus, self.driver = gpus, driver
        self.memory = {}
        self.streams = {}
        self.graphs = {}
        self.calls = []
        self.refuses_recording = False
        self._thread = threading.local()
        self._next = 1000

    # what the tests look at

    def live(self):
        """Objects allocated or made and not freed."""
        return [*self.memory, *self.streams, *self.graphs]

    def at(self, address, size, place):
        """The bytes at an address, which must be in memory of `place`: "host" or the number of a GPU."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.size:
                if block.where != place:
                    raise AssertionError(f"address in memory of {block.where!r}, expected {place!r}")
                return (ctypes.c_char * size).from_address(address)
        raise AssertionError(f"{size} bytes at {address:#x} lie outside all memory")

    def put(self, stream, work):
        """Put work on a stream, as a library does with its kernels."""
        queue = self.streams[int(stream)]
        if queue.device != self.current:
            raise AssertionError(f"a stream of GPU {queue.device} used while GPU {self.current} is current")
        (queue.recorded if queue.recorded is not None else queue.waiting).append(work)

    @property
    def current(self):
        return getattr(self._thread, "device", 0)

    def _handle(self):
        self._next += 1
        return self._next

    # the interface

    def cudaGetErrorName(self, error):
        return Status.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error):
        return Status.cudaSuccess, _WORDS.get(error, b"some error")

    def cudaGetDeviceCount(self):
        if not self.driver:
            return Status.cudaErrorInsufficientDriver, None
        return (Status.cudaSuccess, len(self.gpus)) if self.gpus else (Status.cudaErrorNoDevice, 0)

    def cudaGetDeviceProperties(self, device):
        capability, name, _ = self.gpus[device]
        filled = name.encode().ljust(256, b"\0")
        return Status.cudaSuccess, SimpleNamespace(major=capability // 10, minor=capability % 10, name=filled)

    def cudaSetDevice(self, device):
        if device >= len(self.gpus):
            return (Status.cudaErrorInvalidDevice,)
        self._thread.device = device
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size):
        used = sum(block.size for block in self.memory.values() if block.where == self.current)
        if used + size > self.gpus[self.current][2]:
            return Status.cudaErrorMemoryAllocation, None
        return Status.cudaSuccess, self._allocate(size, self.current)

    def cudaMallocHost(self, size):
        return Status.cudaSuccess, self._allocate(size, "host")

    def _allocate(self, size, where):
        buffer = (ctypes.c_char * (size + _ALIGNMENT))()
        address = -(-ctypes.addressof(buffer) // _ALIGNMENT) * _ALIGNMENT
        ctypes.memset(address, 0xCD, size)
        self.memory[address] = SimpleNamespace(buffer=buffer, size=size, where=where)
        return address

    def cudaFree(self, address):
        return self._free(address, {0, 1, 2, 3})

    def cudaFreeHost(self, address):
        return self._free(address, {"host"})

    def _free(self, address, places):
        if address not in self.memory or self.memory[address].where not in places:
            return (Status.cudaErrorInvalidValue,)
        del self.memory[address]
        return (Status.cudaSuccess,)

    def cudaStreamCreate(self):
        handle = self._handle()
        self.streams[handle] = SimpleNamespace(waiting=[], recorded=None, device=self.current)
        return Status.cudaSuccess, handle

    def cudaStreamDestroy(self, stream):
        return (Status.cudaSuccess if self.streams.pop(stream, None) else Status.cudaErrorInvalidResourceHandle,)

    def cudaStreamSynchronize(self, stream):
        queue = self.streams[stream]
        if queue.recorded is not None:
            return (Status.cudaErrorStreamCaptureUnsupported,)
        waiting, queue.waiting = queue.waiting, []
        for work in waiting:
            work()
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        self.calls.append(("copy", kind, count))
        device = self.streams[stream].device
        places = ("host", device) if kind == Kind.cudaMemcpyHostToDevice else (device, "host")
        ends = [self.memory_of(address) for address in (source, target)]
        if ends != list(places):
            return (Status.cudaErrorInvalidMemcpyDirection,)

        def copy():
            ctypes.memmove(self.at(target, count, places[1]), self.at(source, count, places[0]), count)

        self.put(stream, copy)
        return (Status.cudaSuccess,)

    def memory_of(self, address):
        """Place of an address: "host" or the number of a GPU."""
        for start, block in self.memory.items():
            if start <= address < start + block.size:
                return block.where
        raise AssertionError(f"{address:#x} lies outside all memory")

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode is Mode.cudaStreamCaptureModeThreadLocal
        self.streams[stream].recorded = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        recorded, self.streams[stream].recorded = self.streams[stream].recorded, None
        if self.refuses_recording:
            return Status.cudaErrorStreamCaptureUnsupported, None
        return Status.cudaSuccess, self._keep(recorded)

    def _keep(self, recorded):
        handle = self._handle()
        self.graphs[handle] = recorded
        return handle

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        return Status.cudaSuccess, self._keep(self.graphs[graph])

    def cudaGraphDestroy(self, graph):
        return (Status.cudaSuccess if self.graphs.pop(graph, None) is not None else Status.cudaErrorInvalidValue,)

    def cudaGraphExecDestroy(self, graph):
        return self.cudaGraphDestroy(graph)

    def cudaGraphLaunch(self, graph, stream):
        self.calls.append(("launch",))
        for work in self.graphs[graph]:
            self.put(stream, work)
        return (Status.cudaSuccess,)

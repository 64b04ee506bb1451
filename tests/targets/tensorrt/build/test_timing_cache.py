"""The timing cache of TensorRT, over a fake of the two calls that it makes."""

import json

from diffoundry.targets.tensorrt.build.timing_cache import TimingCache


class Times:
    """An `ITimingCache`: kernel to seconds."""

    def __init__(self, blob):
        self.known = json.loads(blob or b"{}")

    def combine(self, input_cache, ignore_mismatch):
        assert not ignore_mismatch
        self.known = input_cache.known | self.known
        return True

    def serialize(self):
        return json.dumps(self.known).encode()


class Config:
    """The part of an `IBuilderConfig` that has to do with it."""

    def __init__(self):
        self.cache = None

    def create_timing_cache(self, serialized_timing_cache):
        return Times(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


def test_what_was_measured_is_added_to_what_others_measured_meanwhile(tmp_path):
    path = tmp_path / "times"
    first, second = Config(), Config()
    with TimingCache(str(path), first):
        with TimingCache(str(path), second):
            second.cache.known["conv"] = 2
        first.cache.known["gemm"] = 1
    assert json.loads(path.read_bytes()) == {"conv": 2, "gemm": 1}
    third = Config()
    with TimingCache(str(path), third):
        assert third.cache.known == {"conv": 2, "gemm": 1}


def test_without_a_path_the_config_is_left_alone():
    config = Config()
    with TimingCache(None, config):
        assert config.cache is None


def test_a_build_that_raises_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "times"
    path.write_bytes(b'{"conv": 2}')
    config = Config()
    try:
        with TimingCache(str(path), config):
            config.cache.known["gemm"] = 1
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert path.read_bytes() == b'{"conv": 2}'

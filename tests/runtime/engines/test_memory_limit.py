"""A limit of memory: what fits gives the same image, and what does not is refused with the memory that it takes."""

import mmap
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.engines import memory_limit, session
from diffoundry.runtime.engines.measured_calls import MeasuredCalls
from diffoundry.runtime.engines.memory import drop_mapped
from diffoundry.runtime.engines.memory_limit import MemoryLimit
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.resident_memory import forget_peak, peak_rss, resident_bytes
from diffoundry.runtime.errors import InputError
from diffoundry.targets.onnxruntime.run import pieces

ROOM = 60 << 20
SMALL = 12 << 20
LARGE = 200 << 20

pytestmark = pytest.mark.skipif(resident_bytes() is None, reason="this system does not report a process's memory")


def test_the_image_is_the_same_and_one_component_is_open(emoji_bundle):
    arguments = {"num_inference_steps": 2, "seed": 3, "output_type": "np"}
    pipe = load(emoji_bundle, memory="20 GB")
    expected = load(emoji_bundle)("red apple", **arguments).images
    assert np.array_equal(pipe("red apple", **arguments).images, expected)
    assert pipe.session.opened == ("vae_decoder",)


@pytest.mark.parametrize("memory", ["1MB", 1_000_000])
def test_less_than_the_process_itself_is_refused(emoji_bundle, memory):
    with pytest.raises(InputError, match=r"^memory: got 1.0 MB, and this process takes at least [\d.]+ [MG]B; allow"):
        load(emoji_bundle, memory=memory)


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_networks_in_pieces_compute_the_same_steps(monkeypatch, exported, emoji_bundle, target):
    bundle = emoji_bundle if target == "onnxruntime" else exported("emoji", target="openvino")
    monkeypatch.setattr(MemoryLimit, "room", SMALL)
    monkeypatch.setattr(MeasuredCalls, "is_whole", lambda *_: False)

    def steps(**options):
        pipe, latents = load(bundle, **options), []

        def keep(_pipe, _index, _timestep, values):
            latents.append(values["latents"].copy())
            return values

        result = pipe("red apple", num_inference_steps=3, seed=3, output_type="np", callback_on_step_end=keep)
        return pipe, [*latents, result.images]

    pipe, got = steps(memory="20GB")
    for one, other in zip(got, steps()[1], strict=True):
        tolerance = 0 if target == "onnxruntime" else 1e-4
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    for name in ("text_encoder", "unet", "vae_decoder"):
        assert 0 < pipe.session.engine(name).least_memory < 3 * SMALL


def test_a_piece_that_does_not_fit_is_refused(monkeypatch, emoji_bundle):
    monkeypatch.setattr(MemoryLimit, "room", SMALL)
    monkeypatch.setattr(pieces, "WHOLE", 10**6)
    with pytest.raises(InputError, match=r"this process with the largest piece of 'text_encoder' takes at least \d"):
        load(emoji_bundle, memory="20GB")("red apple", num_inference_steps=1)


def test_weights_that_do_not_fit_are_refused_before_anything_opens(monkeypatch, emoji_bundle):
    """Of a target whose engines do not run in pieces."""
    whole = replace(find_plugin("onnxruntime"), pieces=False)
    monkeypatch.setattr(session, "find_plugin", lambda _: whole)
    weights = load(emoji_bundle).session._file_bytes("unet")
    assert weights > 5e6
    with pytest.raises(InputError, match=r"and this process with the weights of 'unet' takes at least"):
        load(emoji_bundle, memory=resident_bytes() + weights // 2)


@pytest.mark.parametrize("memory", ["much", "-1GB", ""])
def test_a_size_that_cannot_be_read(emoji_bundle, memory):
    with pytest.raises(InputError, match=f"memory: got '{memory}', expected a size such as 500MB"):
        load(emoji_bundle, memory=memory)


def test_the_option_is_named_as_typed(emoji_bundle):
    result = CliRunner().invoke(command, [str(emoji_bundle), "red apple", "--memory", "1MB"])
    assert isinstance(result.exception, InputError)
    message = str(result.exception)
    assert message.startswith("--memory: got 1.0 MB, and this process takes at least")
    assert "or turn VAE tiling on with a --vae-tile-size below that of the image, which changes the image" in message


def test_a_component_that_takes_more_is_refused_once(tmp_path):
    limit = MemoryLimit(resident_bytes() + ROOM, tmp_path)
    with pytest.raises(InputError, match=r"took \d.* with component 'unet'; allow that much"), limit.opening("unet"):
        np.ones(LARGE, np.uint8)
    limit.check("unet")
    held = np.ones(LARGE, np.uint8)
    with pytest.raises(InputError, match="component 'vae_decoder'"):
        limit.check("vae_decoder")
    assert held.all()


def test_a_system_without_figures_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_limit, "resident_bytes", lambda: None)
    with pytest.raises(InputError, match="memory: got 1.0 GB, and this system does not report"):
        MemoryLimit(10**9, tmp_path)


def test_mapped_files_do_not_count_while_an_engine_opens(tmp_path):
    path = tmp_path / "weights"
    numbers = np.arange(LARGE // 8)
    path.write_bytes(numbers.tobytes())
    limit = MemoryLimit(resident_bytes() + ROOM, tmp_path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        before = resident_bytes()
        array = np.frombuffer(mapped, np.int64)
        total = int(array.sum())
        assert resident_bytes() - before > LARGE / 2
        assert drop_mapped(tmp_path) >= LARGE
        assert resident_bytes() - before < ROOM
        assert int(array.sum()) == total == int(numbers.sum())
        del array
    assert drop_mapped(tmp_path) == 0
    limit._limit = 2**60
    with limit.opening("unet"):
        pass


def test_the_peak_begins_again():
    np.ones(LARGE, np.uint8)
    assert forget_peak()
    assert peak_rss() - resident_bytes() < ROOM

"""The worker of the desktop example, without its window."""

import importlib.util
import sys
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "docs/examples/desktop_app.py"


@pytest.fixture(scope="module")
def desktop_app():
    spec = importlib.util.spec_from_file_location("desktop_app", _FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["desktop_app"] = module
    spec.loader.exec_module(module)
    return module


def _until(worker, *kinds):
    """Events up to the first of these kinds."""
    events = []
    while not events or events[-1].kind not in kinds:
        events.append(worker.events.get(timeout=60))
    return events


@pytest.mark.slow
def test_previews_results_cancelling_and_errors_arrive_as_events(desktop_app, emoji_bundle):
    worker = desktop_app.Worker(str(emoji_bundle), num_inference_steps=3)
    worker.start()
    assert worker.events.get(timeout=60).kind == "loaded"
    worker.generate("a red apple")
    *previews, done = _until(worker, "done", "error")
    assert [event.text for event in previews] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert done.kind == "done"
    assert done.image.size == (64, 64)
    worker.generate("a rocket")
    worker.events.get(timeout=60)
    worker.cancel()
    assert _until(worker, "done", "cancelled")[-1].kind == "cancelled"
    worker.generate("a\ud800")
    assert "prompt" in _until(worker, "done", "error")[-1].text
    worker.close()
    worker.join(timeout=60)
    assert not worker.is_alive()


def test_a_folder_that_is_no_bundle_is_an_event(desktop_app, tmp_path):
    worker = desktop_app.Worker(str(tmp_path / "missing"))
    worker.start()
    (event,) = _until(worker, "error")
    assert str(tmp_path / "missing") in event.text


@pytest.mark.slow
def test_an_image_is_generated_without_a_window(desktop_app, emoji_bundle, tmp_path):
    from PIL import Image

    desktop_app.generate_once(str(emoji_bundle), "a red apple", str(tmp_path / "apple.png"))
    with Image.open(tmp_path / "apple.png") as image:
        assert image.size == (64, 64)
    with pytest.raises(SystemExit, match="missing"):
        desktop_app.generate_once(str(tmp_path / "missing"), "a red apple", str(tmp_path / "none.png"))
    assert not (tmp_path / "none.png").exists()

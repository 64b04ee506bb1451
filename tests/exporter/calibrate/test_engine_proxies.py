"""Engines that are passed to a session during calibration, when no manifest describes a bundle's engines yet."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffoundry.exporter.calibrate.engine_proxies import FixedEngines
from diffoundry.exporter.components.qwen_vision import qwen_image_encoder
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.models.qwen_vision import QwenVisionEncoder

VISION = {"patch_size": 2, "hidden_size": 8, "num_heads": 2, "out_hidden_size": 4, "window_size": 8}


@pytest.fixture
def bundle(tmp_path):
    """A bundle without a manifest, of a network whose shapes are read before it runs."""
    files = {
        "image_encoder/config.json": {"vision_config": VISION},
        "processor/preprocessor_config.json": {"size": {"shortest_edge": 16, "longest_edge": 1024}},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "image_encoder" / "model.onnx").touch()
    return Bundle(tmp_path)


def test_networks_read_the_shapes_of_engines_that_no_manifest_names(bundle):
    config = {"_class_name": "Qwen2_5_VLForConditionalGeneration", "vision_config": VISION}
    described = qwen_image_encoder(3).describe({"text_encoder": config})
    calls = []

    def run(feeds):
        calls.append(feeds)
        return {"image_embeds": np.ones((len(feeds["window_mask"]), 4, 4), np.float32)}

    engine = SimpleNamespace(inputs=described.inputs, outputs=described.outputs, run=run)
    session = FixedEngines(bundle, {"image_encoder": engine})
    assert session.declared_inputs("image_encoder") == session.inputs("image_encoder") == described.inputs
    tokens = QwenVisionEncoder(session)(Image.new("RGB", (20, 12)))
    assert (tokens.rows, tokens.columns, len(calls)) == (3, 5, 1)
    assert tokens.embeds.shape == (15, 4)

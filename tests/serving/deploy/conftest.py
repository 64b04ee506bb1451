"""A bundle of emoji in a folder of a plain name."""

import shutil

import pytest


@pytest.fixture(scope="session")
def emoji(emoji_bundle, tmp_path_factory):
    """The bundle for ONNX Runtime; shared."""
    return shutil.copytree(emoji_bundle, tmp_path_factory.mktemp("deploy") / "emoji.bundle")


@pytest.fixture(scope="session")
def emoji_openvino(exported, tmp_path_factory):
    """The bundle for OpenVINO; shared."""
    source = exported("emoji", target="openvino", precision="fp32")
    return shutil.copytree(source, tmp_path_factory.mktemp("deploy") / "emoji.bundle")

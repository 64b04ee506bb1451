"""Exports and converted weights are written into no folder of another bundle."""

import pytest

from diffoundry.exporter.bundle_writer import check_output
from diffoundry.exporter.checkpoints.convert import convert
from diffoundry.runtime.errors import InputError


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_output_in_a_bundle(tmp_path, overwrite):
    (tmp_path / "unet").mkdir()
    (tmp_path / "diffoundry.json").touch()
    with pytest.raises(InputError, match=r"^--output .*new: got a folder of the bundle .*, expected another"):
        check_output(tmp_path / "unet" / "new", overwrite=overwrite)


def test_converted_weights_in_a_bundle(tmp_path):
    (tmp_path / "diffoundry.json").touch()
    for source in (tmp_path, tmp_path / "weights.bin"):
        with pytest.raises(InputError, match=r"^--output .*new\.safetensors: got a folder of the bundle .*, expected"):
            convert(source, tmp_path / "new.safetensors", lambda _path: None)

"""An export writes into no folder of another bundle."""

import pytest

from diffoundry.exporter.bundle_writer import check_output
from diffoundry.runtime.errors import InputError


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_output_in_a_bundle(tmp_path, overwrite):
    (tmp_path / "unet").mkdir()
    (tmp_path / "diffoundry.json").touch()
    with pytest.raises(InputError, match=r"^--output .*new: got a folder of the bundle .*, expected another"):
        check_output(tmp_path / "unet" / "new", overwrite=overwrite)

"""Bundles of every system, of true tiny checkpoints, pass a verification with its defaults."""

import json

import pytest
from system_checkpoints import SYSTEM_TABLES

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import quiet_libraries
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, family_of_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REFUSED = {"ddpm-classes"}
"""Checkpoints that an export refuses."""

OTHER_STEPS = {
    "UnCLIPPipeline": (5,),  # of all that it was trained with
    "UnCLIPImageVariationPipeline": (5,),
    "ShapEPipeline": (20, 2),  # which multiply rounding
    "ShapEImg2ImgPipeline": (20, 2),
}
"""Steps of the verifications besides the default, 20."""


@pytest.mark.parametrize("table", SYSTEM_TABLES)
def test_a_true_bundle_passes_by_default(system_checkpoint, exported, table):
    quiet_libraries()
    failed = {}
    for name, make in SYSTEM_TABLES[table].items():
        if name in REFUSED:
            continue
        folder = system_checkpoint(f"verified-{name}", make)
        bundle, checkpoint = exported(folder), open_checkpoint(str(folder))
        for steps in OTHER_STEPS.get(name, (VerifyRequest.steps,)):
            report = verify(bundle, checkpoint, VerifyRequest(steps=steps, options=EngineOptions(threads=1)))
            found = [check for check in report.all_checks if not check.passed]
            if found:
                failed[name, steps] = found
    assert failed == {}


def test_every_family_is_verified(tmp_path):
    families = set()
    for table in SYSTEM_TABLES.values():
        for name, make in table.items():
            make(tmp_path / name)
            index = json.loads((tmp_path / name / "model_index.json").read_text())
            families.add(family_of_class(index["_class_name"]).name)
    assert families == {entry.name for entry in FAMILY_TABLE}

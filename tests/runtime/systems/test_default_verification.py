"""Bundles of every system, of true tiny checkpoints, pass a verification with its defaults."""

import json

import pytest
from system_checkpoints import SYSTEM_TABLES

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import quiet_libraries
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, family_of_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REFUSED = {"ddpm-classes"}
"""Checkpoints that an export refuses."""

OTHER_STEPS = {
    "UnCLIPPipeline": (5,),  # of all that it was trained with
    "UnCLIPImageVariationPipeline": (5,),
    "VQDiffusionPipeline": (6,),
    "ShapEPipeline": (20, 2),  # which multiply rounding
    "ShapEImg2ImgPipeline": (20, 2),
}
"""Steps of the verifications that are not one of 20, the default."""

LARGEST = {
    "Kandinsky3Pipeline": 64,
    "Kandinsky3Img2ImgPipeline": 64,
    "PixArtAlphaPipeline": 128,
    **dict.fromkeys(("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"), 64),
    "StableCascadeDecoderPipeline": 256,
    "WuerstchenDecoderPipeline": 256,
}
"""Pixels of the bundles' images, whose size would be 1024 x 1024."""


def bounds(name):
    if name not in LARGEST:
        return {}
    side = DimSpec(min=64, max=LARGEST[name], multiple_of=64)
    return {"dims": {"height": side, "width": side}}


@pytest.mark.parametrize("table", SYSTEM_TABLES)
def test_a_true_bundle_passes_by_default(system_checkpoint, exported, table):
    quiet_libraries()
    failed = {}
    for name, make in SYSTEM_TABLES[table].items():
        if name in REFUSED:
            continue
        folder = system_checkpoint(f"verified-{name}", make)
        bundle, checkpoint = exported(folder, **bounds(name)), open_checkpoint(str(folder))
        for steps in OTHER_STEPS.get(name, (VerifyRequest().steps,)):
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

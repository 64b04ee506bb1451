"""The denoiser of a class of every family, whole and in parts: equal numbers, bit for bit."""

import numpy as np
import pytest
from partitioned_networks import PARTITIONED_ROLES, lower_in_parts, open_engine, random_feeds

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_parts_give_the_bits_of_the_whole_network(class_bundle, tmp_path):
    shares = {}
    for name in (entry.classes[0] for entry in FAMILY_TABLE):
        bundle = class_bundle(name)
        for component in Bundle(bundle).components:
            if Bundle(bundle).role(component) not in PARTITIONED_ROLES:
                continue
            folder = tmp_path / f"{len(shares)}"
            specs = [lower_in_parts(bundle, component, folder, partition=cut) for cut in (False, True)]
            label = f"{name} {component}"
            shares[label] = {part.name: part.weights for part in specs[1].parts}
            results = []
            for spec in specs:
                with open_engine(folder, spec) as engine:
                    results.append(engine.run(random_feeds(specs[0].inputs)))
            whole, cut = results
            assert [one.name for one in specs[0].inputs] == [one.name for one in specs[1].inputs], label
            assert whole.keys() == cut.keys(), label
            for output in whole:
                assert np.isfinite(whole[output]).all(), label
                assert np.array_equal(whole[output], cut[output]), label
    assert sum(bool(parts) for parts in shares.values()) > 0.8 * len(shares), shares

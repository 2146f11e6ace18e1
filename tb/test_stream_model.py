"""Golden model, compiler back end and stream model agree on random networks."""

from __future__ import annotations

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.lowering import lower
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.stream import StreamModel

LANES = (None, (0,), (2, 3), (1, 2, 3))


@pytest.mark.parametrize("preset", ["tiny", "edge", "server"])
@pytest.mark.parametrize("seed", range(40))
def test_random_networks(preset: str, seed: int) -> None:
    """Convolutions, pools and additions of all depths, on all lanes and on some, with several inputs and
    outputs."""
    rng = np.random.default_rng(seed)
    config = NpuConfig.preset(preset)
    lanes = LANES[seed % len(LANES)]
    generator = NetworkGenerator(rng, config, lanes)
    network = generator.network(operations=int(rng.integers(1, 7)), inputs=int(rng.integers(1, 3)))
    inputs = random_inputs(rng, network)
    saturations: dict[str, int] = {}
    expected = evaluate(network, inputs, saturations=saturations)
    model = StreamModel(config)
    outputs = model.run(lower(network, config, lanes=lanes), inputs)
    assert outputs.keys() == set(network.outputs)
    for name in network.outputs:
        np.testing.assert_array_equal(outputs[name], expected[name], err_msg=name)

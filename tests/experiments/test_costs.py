"""What a model costs to serve."""

import pytest

from embkeras.experiments.costs import stored_bytes
from embkeras.experiments.strategies import Strategy, default_strategies, encoder_strategies
from tests.experiments.test_strategies import GROUPS, build_encoder, build_model

TABLE, REST = 4 * 10 * 4, 4 * (4 * 4 + 4 + 4 * 3 + 3)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        *[(each, TABLE) for each in default_strategies(which="all").values() if each.name != "two channels"],
        (default_strategies(which="all")["two channels"], None),
        (Strategy("int8", embedding={"stored": "int8"}), 10 * 4 + 4 * 10),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_table_counts_once(strategy, expected):
    """What trains beside it is not stored; two channels are twice as wide; int8 is a quarter, and a scale a row."""
    if expected is None:
        assert stored_bytes(build_model(strategy)) == 2 * TABLE + REST + 4 * 4 * 4
    else:
        assert stored_bytes(build_model(strategy)) == expected + REST


def test_lora_on_kernels_costs_nothing():
    """A and B are in the kernel when the model is served."""
    found = encoder_strategies(GROUPS, rank=2)
    sizes = {name: stored_bytes(build_encoder(strategy)) for name, strategy in found.items()}
    assert set(sizes.values()) == {TABLE + 4 * (4 * 4 + 4) + REST}

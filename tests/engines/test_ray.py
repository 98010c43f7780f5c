"""Ray: runs through the guide's executor, in two processes."""

import os

import pytest

from tests.engines import experiment, material
from tests.processes import ROOT

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.thorough


@pytest.fixture
def ray(monkeypatch):
    """On the loopback address; ended with its processes."""
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    settings = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 100_000_000}
    ray.init(num_cpus=2, _node_ip_address="127.0.0.1", logging_level="ERROR", **settings)
    yield ray
    ray.shutdown()


def test_runs_are_those_of_one_process(ray, tmp_path):
    """To the bit, with one thread of TensorFlow each."""
    build_model = experiment.model_maker(tmp_path)
    wanted = experiment.compared(build_model)
    ek = type("ek", (), {"compare_strategies": staticmethod(lambda build, _, executor: executor)})
    executor = material.recipe("test_ray", {"ray": ray, "ek": ek, "build_model": build_model, "data": None})[
        "comparison"
    ]
    ended = []
    runs = experiment.compared(build_model, executor=executor, on_run=ended.append)
    experiment.check_same(runs, wanted)
    assert {run.threads for run in runs} == {1} and len(ended) == 2

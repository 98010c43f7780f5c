"""Dask: a vocabulary counted in partitions, a model that scores them, and runs, in one cluster."""

import functools

import pytest

from tests.engines import experiment, material
from tests.variants import variants

pytest.importorskip("distributed", reason="dask[distributed] is not installed")


@pytest.fixture(scope="module", params=variants([1, 2], always=[1]))
def client(request):
    """Of one worker or two on the loopback address, with ports that are free: each starts TensorFlow, in 5 s."""
    from distributed import Client, LocalCluster

    arguments = {"n_workers": request.param, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**arguments) as cluster, Client(cluster) as client:
        yield client


@pytest.mark.usefixtures("client")
def test_vocabulary_of_partitions():
    """It is the one of all texts in one process."""
    import dask.bag

    bag = dask.bag.from_sequence(material.TEXTS, npartitions=material.PARTS)
    made = material.recipe("test_dask", {"bag": bag})
    material.check_counts(made["counts"], made["vocabulary"])


@pytest.mark.usefixtures("client")
def test_scores_of_partitions(tmp_path, monkeypatch):
    """In other processes, of one thread, that load the model once: bits of the same parts in this process."""
    dataframe = pytest.importorskip("dask.dataframe", reason="dask.dataframe can't be imported")
    monkeypatch.chdir(tmp_path)
    material.export()
    frame = dataframe.from_pandas(material.FRAME, npartitions=material.PARTS)
    made = material.recipe("test_dask", {"frame": frame})
    scorer, meta = made["scorer"], made["scored"]._meta
    traced = frame.map_partitions(
        functools.partial(material.where_it_ran, scorer), meta=meta.assign(process=1, threads=1, loads=1, call=1)
    )
    found = traced.compute()
    material.check_scores(found, scorer)
    scored = made["scored"].compute()
    assert scored.equals(found[["id", "review", "label", "probability"]]) and scored.dtypes.equals(meta.dtypes)


def test_worker_that_is_killed(client, tmp_path):
    """Dask starts another one and runs its run again: the runs are those of one process."""
    wanted = experiment.compared(experiment.model_maker(tmp_path))
    deadly, ended = experiment.model_maker(tmp_path, deadly=True), []
    runs = experiment.compared(deadly, executor=client.get_executor(), on_run=ended.append)
    assert (tmp_path / "dead").exists() and sorted(run.strategy for run in ended) == ["fine-tuned", "frozen"]
    experiment.check_same(runs, wanted)
    assert {run.threads for run in runs} == {1}

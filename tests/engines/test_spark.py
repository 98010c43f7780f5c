"""Spark: a vocabulary counted in partitions, and a model that scores them, in one session."""

import os
import shutil
import signal
import sys

import pytest

from tests.engines import material
from tests.processes import ROOT
from tests.variants import variants

pytest.importorskip("pyspark", reason="pyspark is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and java is not on PATH")


@pytest.fixture(scope="module", params=variants([1, 2], always=[1]))
def spark(request, tmp_path_factory):
    """A session of one worker or two on the loopback address, with ports that are free; ended by its id."""
    from pyspark.sql import SparkSession

    folder = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "7",
        "spark.sql.warehouse.dir": str(folder),
        "spark.local.dir": str(folder),
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # starts sooner
        "spark.sql.codegen.wholeStage": "false",
    }
    builder = SparkSession.builder.master(f"local[{request.param}]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        java = session.sparkContext._gateway.proc
        yield session
        session.stop()
        os.kill(java.pid, signal.SIGTERM)
        java.wait(60)


def test_vocabulary_of_partitions(spark):
    """It is the one of all texts in one process."""
    corpus = spark.sparkContext.parallelize(material.TEXTS, material.PARTS)
    made = material.recipe("test_spark", {"corpus": corpus})
    material.check_counts(made["counts"], made["vocabulary"])


def test_scores_of_partitions(spark, tmp_path, monkeypatch):
    """In other processes, of one thread, that load the model once: bits of the same parts in this process."""
    monkeypatch.chdir(tmp_path)
    material.export()
    frame = spark.createDataFrame(material.FRAME).repartition(material.PARTS)
    made = material.recipe("test_spark", {"frame": frame})
    scorer, schema = made["scorer"], made["schema"]
    traced = frame.mapInPandas(
        lambda parts: (material.where_it_ran(scorer, part) for part in parts),
        f"{schema}, process long, threads long, loads long, call long",
    )
    found = traced.toPandas()
    material.check_scores(found, scorer)
    assert made["scored"].toPandas().equals(found[["id", "review", "label", "probability"]])

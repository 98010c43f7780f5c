"""MPI: runs through mpi4py's executor, whose processes mpiexec starts."""

import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest

from tests.engines import experiment
from tests.processes import ROOT, started

pytest.importorskip("mpi4py", reason="mpi4py is not installed")
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
pytestmark = [pytest.mark.thorough, pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not on PATH")]


def test_runs_are_those_of_one_process(tmp_path):
    """To the bit, with one thread of TensorFlow each: a controller and two workers."""
    script = tmp_path / "runs.py"
    script.write_text(
        "import pathlib, pickle, sys\n"
        "from mpi4py.futures import MPIPoolExecutor\n"
        "from tests.engines import experiment\n"
        "if __name__ == '__main__':\n"
        "    folder = pathlib.Path(sys.argv[1])\n"
        "    with MPIPoolExecutor() as pool:\n"
        "        runs = experiment.compared(experiment.model_maker(folder), executor=pool)\n"
        "    (folder / 'runs').write_bytes(pickle.dumps(runs))\n"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [MPIEXEC, "-n", 3, sys.executable, "-m", "mpi4py.futures", script, tmp_path]
    with started(*command, env={"PYTHONPATH": path}) as process:
        assert process.wait(240) == 0
    runs = pickle.loads((tmp_path / "runs").read_bytes())
    experiment.check_same(runs, experiment.compared(experiment.model_maker(tmp_path)))
    assert {run.threads for run in runs} == {1}

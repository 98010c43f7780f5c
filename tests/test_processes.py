"""Child processes of the tests end in time, and take theirs with them."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.processes import run_python, started

_SLEEP = "import time; time.sleep(100)"
_PARENT = f"""
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", {_SLEEP!r}])
    print(child.pid, flush=True)
    print("here I am", file=sys.stderr, flush=True)
    time.sleep(100)
"""


def assert_ends(pid):
    """No process runs under the id any more, or will in a moment."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")


def test_output_and_return_code():
    """Arguments, environment and stdin arrive; both streams and the code come back."""
    code = "import os, sys; print(sys.argv[1], os.environ['X'], input()); print('e', file=sys.stderr); sys.exit(3)"
    done = run_python("-c", code, 7, stdin="in", env={"X": "é"}, returncode=3)
    assert (done.returncode, done.stdout, done.stderr) == (3, "7 é in\n", "e\n")


def test_other_return_code_fails():
    """With the end of stderr."""
    with pytest.raises(AssertionError, match=r"returned 1: (.*\n)*.*NameError"):
        run_python("-c", "nonsense")
    assert run_python("-c", "import os; os.kill(os.getpid(), 9)", returncode=-signal.SIGKILL).stdout == ""


def test_time_limit_ends_the_group():
    """The error has what was printed; neither the program nor its child runs on."""
    with pytest.raises(AssertionError, match=r"took more than 1\.5 s; stderr: here I am"):
        run_python("-c", _PARENT, timeout=1.5)


def test_block_ends_the_group():
    """The child of the child too."""
    with started(
        sys.executable, "-c", textwrap.dedent(_PARENT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as it:
        grandchild = int(it.stdout.readline())
    assert it.returncode == -signal.SIGKILL
    assert_ends(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's death is Linux's")
def test_parent_that_is_killed_takes_its_child_along():
    """No cleanup runs then, as when a test worker ends at its time limit."""
    code = """
        import os, subprocess, sys
        from tests.processes import started
        sleep = "import time; print(); sys.stdout.flush(); time.sleep(100)"
        with started(sys.executable, "-c", "import sys\\n" + sleep, stdout=subprocess.PIPE) as child:
            child.stdout.readline()  # by then the kernel knows
            print(child.pid, flush=True)
            os.kill(os.getpid(), 9)
    """
    assert_ends(int(run_python("-c", code, returncode=-signal.SIGKILL).stdout))

"""Child processes of the tests: each is a fresh program with a time limit, and none outlives the test that started it.

Tests never fork: a forked child of a process that has imported TensorFlow may hang in its first TensorFlow call.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
# On Linux the kernel also kills a child whose parent died without any cleanup, as a test worker does at its time limit.
_LAUNCHER = ["setpriv", "--pdeathsig", "KILL"] if sys.platform == "linux" and shutil.which("setpriv") else []


@contextlib.contextmanager
def started(*command: object, cwd: str | os.PathLike = ROOT, env: Mapping[str, str] | None = None, **pipes):
    """A process in a process group of its own; the whole group is killed when the block ends.

    Args:
        command: the program and its arguments.
        cwd: its working directory.
        env: variables added to this process's environment.
        pipes: `stdin`, `stdout` and `stderr` as `subprocess.Popen` takes them.

    Yields:
        The process; its pipes carry text.
    """
    process = subprocess.Popen(
        [*_LAUNCHER, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        **pipes,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended, and so did its children
                os.killpg(process.pid, signal.SIGKILL)


def run_python(
    *arguments: object,
    stdin: str = "",
    cwd: str | os.PathLike = ROOT,
    env: Mapping[str, str] | None = None,
    returncode: int | None = 0,
    timeout: float = 240,
) -> subprocess.CompletedProcess:
    """Run `python *arguments` in a fresh interpreter, and check how it ended.

    Args:
        arguments: such as "-m", module, or "-c", code (which may be indented), and what follows them.
        stdin: text that the program reads.
        cwd: its working directory.
        env: variables added to this process's environment.
        returncode: what it must return, `-signal.SIGKILL` if it kills itself; None for anything.
        timeout: seconds after which it is killed, and the test fails.

    Returns:
        The return code, and the text on stdout and stderr.
    """
    words = list(map(str, arguments))
    if words[0] == "-c":
        words[1] = textwrap.dedent(words[1])
    with started(
        sys.executable, *words, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            printed = (error.stderr or b"").decode("utf-8", "replace")
            raise AssertionError(f"python {words} took more than {timeout} s; stderr: {printed[-2000:]}") from None
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    assert returncode in (None, done.returncode), f"python {words} returned {done.returncode}: {stderr[-3000:]}"
    return done


def run_workers(*arguments: object, count: int = 2, returncodes: list[int | None] | None = None, timeout: float = 240):
    """Run one program as several workers of tf.distribute, on free ports of the loopback address.

    Args:
        arguments: as for `run_python`.
        count: how many workers.
        returncodes: what each must return, None for anything; without it, 0 from all.
        timeout: seconds after which all are killed, and the test fails.

    Returns:
        The text of each worker on stdout.
    """
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in held]}
    with contextlib.ExitStack() as stack:
        outputs = [[stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)] for _ in range(count)]
        workers = []
        for index, (stdout, stderr) in enumerate(outputs):
            config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            env = {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
            workers.append(
                stack.enter_context(started(sys.executable, *arguments, env=env, stdout=stdout, stderr=stderr))
            )
        end = time.monotonic() + timeout
        try:
            for worker in workers:
                worker.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        texts = [[file.seek(0) or file.read() for file in pair] for pair in outputs]
        found = [worker.returncode for worker in workers]
    expected = returncodes or [0] * count
    assert all(code in (None, own) for code, own in zip(expected, found, strict=True)), (
        f"workers returned {found}: " + "".join(stderr[-3000:] for _, stderr in texts)
    )
    return [stdout for stdout, _ in texts]

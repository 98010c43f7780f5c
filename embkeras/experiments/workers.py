"""Runs here or through any `concurrent.futures.Executor`: what travels to its workers, and what is left when one fails."""

import importlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, TypeVar

from embkeras._checks import shown, whole_number
from embkeras._threads import limit_threads
from embkeras.errors import ArgumentError, EmbkerasError, MissingDependencyError, RunFailedError
from embkeras.experiments.jobs import Job

Result = TypeVar("Result")


class Workers:
    """An executor, and how TensorFlow runs in its processes.

    Args:
        executor: of threads of this process, or of other processes.
        threads: of TensorFlow in another process.

    Raises:
        ArgumentError: not an Executor, or threads below 1.
    """

    def __init__(self, executor: Executor, threads: int = 1):
        if not isinstance(executor, Executor):
            raise ArgumentError(f"executor must be a concurrent.futures.Executor. Received: {shown(executor)}.")
        self._executor, self._threads = executor, whole_number(threads, "threads", least=1)

    def run(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        ended: Sequence[Any],
        seconds_left: Callable[[], float | None] = lambda: None,
    ) -> Iterator[Result]:
        """What the function returns for each job, as they end; when one fails or the time is up, the others are cancelled.

        Args:
            function: called with a job, there.
            jobs: of one experiment: they have the same model and data.
            ended: the runs of the experiment that are known when one fails.
            seconds_left: until no further run begins, or None.

        Raises:
            ArgumentError: something can't be pickled.
            MissingDependencyError: it can't without cloudpickle.
            RunFailedError: a job failed, with `ended`, after those that had begun have ended.
        """
        pending: dict[Future[Result], Job] = {}
        wrong: tuple[Job, BaseException] | None = None
        try:
            for submit, job in self._calls(function, jobs if seconds_left() != 0 else ()):
                try:
                    pending[submit()] = job
                except RuntimeError as refused:  # the executor was shut down, or is broken
                    wrong = job, refused
                    break
            while pending:
                done, _ = wait(pending, timeout=seconds_left() or None, return_when=FIRST_COMPLETED)
                for future in [each for each in pending if each in done]:  # those that ended together, in order
                    job = pending.pop(future)
                    if future.cancelled():
                        continue
                    if error := future.exception():
                        wrong = wrong or (job, error)
                    else:
                        yield future.result()
                if wrong or seconds_left() == 0:
                    for future in [each for each in pending if each.cancel()]:
                        pending.pop(future)
        finally:
            for future in pending:
                future.cancel()
        if wrong:
            raise failed(*wrong, ended) from wrong[1]

    def _calls(
        self, function: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> Iterator[tuple[Callable[[], Future[Result]], Job]]:
        """What submits each job."""
        executor = self._executor
        if isinstance(executor, ThreadPoolExecutor):
            for job in jobs:
                yield lambda job=job: executor.submit(function, job), job  # type: ignore[misc]
        elif jobs:
            first = jobs[0]
            shared = _packed({"build_model": first.build_model, "data": first.data})
            for job in jobs:
                own = replace(job, build_model=_elsewhere, data=None)  # type: ignore[arg-type]
                parts = {"the function of a run": function, "the callbacks": own.callbacks, "the strategy": own}
                call = shared, _packed(parts), self._threads
                yield lambda call=call: executor.submit(_in_worker, *call), job  # type: ignore[misc]


def one_by_one(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    ended: Sequence[Any],
    seconds_left: Callable[[], float | None] = lambda: None,
) -> Iterator[Result]:
    """What `Workers.run` does, in this process: one job after the other.

    Raises:
        RunFailedError: a job failed, with `ended`.
    """
    for job in jobs:
        if seconds_left() == 0:
            return
        try:
            found = function(job)
        except Exception as error:
            raise failed(job, error, ended) from error
        yield found


def failed(job: Job, error: BaseException, ended: Sequence[Any]) -> RunFailedError:
    """The error of a run that failed."""
    kind = "" if isinstance(error, EmbkerasError) else f"{type(error).__name__}: "
    left = f" Finished runs: {len(ended)}; the error has them (runs)." if ended else ""
    return RunFailedError(f"The run of {job} failed: {kind}{error}{left}", ended)


def _in_worker(shared: bytes, own: bytes, threads: int) -> Any:
    """One run, in a process of an executor."""
    limit_threads(threads)  # before anything of TensorFlow is unpickled
    given, parts = pickle.loads(shared), pickle.loads(own)
    function, job = parts["the function of a run"], parts["the strategy"]
    try:
        return function(replace(job, **given))
    except Exception as error:
        wrong = _as_it_arrives(error)
    raise wrong  # out here, so that it has no context: that may be what can't be pickled


def _as_it_arrives(error: Exception) -> Exception:
    """The error, if it can be pickled: one that can't would look like a worker that died."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _elsewhere(*_: Any) -> Any:
    """In the place of what all jobs have in common."""
    raise NotImplementedError


def _packed(parts: dict[str, Any]) -> bytes:
    """Pickled, functions of scripts and closures too."""
    try:
        dumps = importlib.import_module("cloudpickle").dumps
    except ImportError:
        dumps = pickle.dumps
    try:
        return bytes(dumps(parts))
    except Exception as error:  # whatever a part raises
        name, reason = next(
            ((name, why) for name, part in parts.items() if (why := _why_not(dumps, part))), ("", error)
        )
        if dumps is pickle.dumps:
            raise MissingDependencyError(
                f"{name} is not a function of a module, and can't travel to another process without cloudpickle: "
                f'python -m pip install "embkeras[parallel]". {type(reason).__name__}: {reason}'
            ) from error
        raise ArgumentError(
            f"{name} can't travel to another process: {type(reason).__name__}: {reason}. Make what can't be pickled inside "
            f"build_model, and give the data as arrays."
        ) from error


def _why_not(dumps: Callable[[Any], bytes], part: Any) -> Exception | None:
    try:
        dumps(part)
    except Exception as error:
        return error
    return None

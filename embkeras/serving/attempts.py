"""When a request may be sent again.

Asking a model changes nothing, so that a request may come twice. It is sent again only where that can help and does no
harm: the server was not there, or broke off before it had answered anything, or said that it is not ready. After a
time-out it is not: the server may still be at work on the request, and a second one would be more of what it has too
much of.
"""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from embkeras.errors import ServingError

_QUOTED = 500  # characters of a server's message
_PAUSE = 0.1  # seconds before the second attempt; twice as long before each further one

Answer = TypeVar("Answer")


class Unavailable(ServingError):
    """Nothing was answered, or "not now": the request may be sent again."""


class Gone(ServingError):
    """The server has no such model, or no longer this version of it."""


def attempted(ask: Callable[[float], Answer], timeout: float, retries: int) -> Answer:
    """The answer, after as many attempts as it takes.

    Args:
        ask: sends the request, and gives up after as many seconds as it is given.
        timeout: seconds for all attempts together.
        retries: further attempts after the first.

    Raises:
        ServingError: as `ask` raises it, after the last attempt.
    """
    end = time.monotonic() + timeout
    attempt = 0
    while True:
        attempt += 1
        try:
            return ask(max(end - time.monotonic(), 1e-3))
        except Unavailable as error:
            pause = _PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # many clients must not come back at once
            if attempt > retries or time.monotonic() + pause >= end:
                raise ServingError(f"{error} (attempts: {attempt})") from error
            time.sleep(pause)


def quoted(what: Any) -> str:
    """The beginning of what a server said, on one line."""
    text = what.decode("utf-8", "backslashreplace") if isinstance(what, bytes) else str(what)
    text = " ".join(text[: 2 * _QUOTED].split())
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."

"""The errors that embkeras raises, and its warning.

Every error is an `EmbkerasError` and also the built-in exception that fits, so `except ValueError` works in code that
does not know embkeras. A message says what was wrong, what was received, where (file, line, token, epoch), and what to
do next.
"""

from collections.abc import Iterable
from typing import Any


class EmbkerasError(Exception):
    """The parent of all errors that embkeras raises on purpose."""

    # KeyError.__str__ would print the repr of the message; all children print the message itself.
    __str__ = Exception.__str__


class ArgumentError(EmbkerasError, ValueError):
    """An argument that the function does not accept."""


class RunFailedError(ArgumentError):
    """A run of a comparison that failed, or whose worker died.

    Attributes:
        runs: those that were finished, in the order in which they ended; `compare_strategies(..., done=error.runs)` trains the
            others.
    """

    def __init__(self, message: str, runs: Iterable[Any] = ()):
        super().__init__(message)
        self.runs = tuple(runs)


class VectorFileError(EmbkerasError, ValueError):
    """A file of word vectors that is damaged, has another format than expected, or can't be read or written."""


class VocabularyError(EmbkerasError, ValueError):
    """Tokens and ids that do not form a vocabulary, or a text that the vocabulary can't encode."""


class AlignmentError(EmbkerasError, ValueError):
    """Vectors and a vocabulary that do not match."""


class EncoderError(EmbkerasError, ValueError):
    """The folder of a pre-trained encoder that is damaged, or that can't be read as exactly the model it describes."""


class UnknownWordError(EmbkerasError, KeyError):
    """A word that the vectors or the vocabulary do not have."""


class UnknownLayerError(EmbkerasError, KeyError):
    """A layer name that the model does not have."""


class ScheduleError(EmbkerasError, ValueError):
    """Training phases that contradict each other, or an optimizer that can't follow them."""


class ResumeError(EmbkerasError, ValueError):
    """A saved training state that is damaged, or belongs to another training."""


class OptimizerError(EmbkerasError, ValueError):
    """An optimizer setting that would fail silently."""


class DistributionError(EmbkerasError, ValueError):
    """A model, an optimizer or data that can't be trained on several workers, or a worker that is gone."""


class SavedModelError(EmbkerasError, ValueError):
    """A model that can't be exported, or an export that can't be read."""


class ServingError(EmbkerasError, ConnectionError):
    """A server that can't be reached, refuses a request, or sends an invalid answer."""


class ServingTimeoutError(ServingError, TimeoutError):
    """A server that did not answer in time; it may still be working on the request."""


class DataError(EmbkerasError, ValueError):
    """Labelled text that can't be read or split."""


class DownloadError(EmbkerasError, OSError):
    """Demo material that could not be downloaded, or arrived damaged."""


class OutputError(EmbkerasError, OSError):
    """A file or folder that can't be written."""


class MissingDependencyError(EmbkerasError, ImportError):
    """An optional package that is not installed; the message names the extra that installs it."""


class BackendError(EmbkerasError, ImportError):
    """Keras runs on a backend other than TensorFlow."""


class KerasVersionError(EmbkerasError, ImportError):
    """A version of Keras or TensorFlow without a private name that embkeras uses."""


class EmbkerasWarning(UserWarning):
    """Something that works, but probably not as intended."""

"""The errors and the warning of embkeras.

Every error is an `EmbkerasError` and also the built-in that fits, so `except ValueError` works in code that doesn't know
embkeras. A message says what was wrong, what was received, where (file, line, token, epoch), and what to do next.
"""


class EmbkerasError(Exception):
    """The base class of all errors that embkeras raises."""

    # KeyError.__str__ prints the repr of its message; every child prints the message itself.
    __str__ = Exception.__str__


class ArgumentError(EmbkerasError, ValueError):
    """An argument that the function doesn't accept."""


class VectorFileError(EmbkerasError, ValueError):
    """A vector file that is damaged, in an unexpected format, or can't be read or written."""


class VocabularyError(EmbkerasError, ValueError):
    """Tokens and ids that don't form a vocabulary, or a text that the vocabulary can't encode."""


class AlignmentError(EmbkerasError, ValueError):
    """Vectors and a vocabulary that don't fit together."""


class UnknownWordError(EmbkerasError, KeyError):
    """A word that is not in the store or vocabulary."""


class UnknownLayerError(EmbkerasError, KeyError):
    """A layer or variable that the model doesn't contain."""


class ScheduleError(EmbkerasError, ValueError):
    """Training phases that contradict each other, or an optimizer that can't follow them."""


class ResumeError(EmbkerasError, ValueError):
    """A saved training state that is damaged, or belongs to another fit."""


class OptimizerError(EmbkerasError, ValueError):
    """An optimizer setting that would give wrong results silently."""


class SavedModelError(EmbkerasError, ValueError):
    """A model that can't be exported, or an export that can't be read."""


class ServingError(EmbkerasError, ConnectionError):
    """A server that can't be reached, refuses a request, or returns an invalid answer."""


class ServingTimeoutError(ServingError, TimeoutError):
    """A server that didn't answer in time; it may still be working on the request."""


class DataError(EmbkerasError, ValueError):
    """Text data that can't be read or split."""


class DownloadError(EmbkerasError, OSError):
    """Demo data that couldn't be downloaded, or arrived damaged."""


class OutputError(EmbkerasError, OSError):
    """A file or folder that can't be written."""


class MissingDependencyError(EmbkerasError, ImportError):
    """An optional package that isn't installed; the message names the extra that installs it."""


class BackendError(EmbkerasError, ImportError):
    """Keras runs on a backend other than TensorFlow."""


class EmbkerasWarning(UserWarning):
    """Something that works, but most likely not as intended."""

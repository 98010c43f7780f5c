"""What embkeras raises, and what it warns with.

Every error is an `EmbkerasError` and also the built-in that fits, so `except ValueError` keeps working in code that
does not know embkeras. A message names the rule, the value received and the place (file, line, token, epoch).
"""


class EmbkerasError(Exception):
    """The parent of every error that embkeras raises on purpose."""

    # KeyError.__str__ would print the repr of the message; every child prints the message itself.
    __str__ = Exception.__str__


class ArgumentError(EmbkerasError, ValueError):
    """An argument outside what the function accepts."""


class VectorFileError(EmbkerasError, ValueError):
    """A file of word vectors that is damaged, of another format than expected, or cannot be read or written."""


class VocabularyError(EmbkerasError, ValueError):
    """Tokens and ids that do not form a vocabulary, or a text that the vocabulary cannot encode."""


class AlignmentError(EmbkerasError, ValueError):
    """Vectors and a vocabulary that do not fit each other."""


class UnknownWordError(EmbkerasError, KeyError):
    """A word that is not in the store or vocabulary."""


class UnknownLayerError(EmbkerasError, KeyError):
    """A layer name that the model does not have."""


class ScheduleError(EmbkerasError, ValueError):
    """Phases of training that contradict each other, or an optimizer that cannot follow them."""


class ResumeError(EmbkerasError, ValueError):
    """A state of training that is damaged, or does not belong to the fit that asks for it."""


class OptimizerError(EmbkerasError, ValueError):
    """An optimizer setting that would be silently wrong."""


class SavedModelError(EmbkerasError, ValueError):
    """A model that cannot be exported, or an export that cannot be read."""


class ServingError(EmbkerasError, ConnectionError):
    """A server that cannot be reached, refuses a request, or gives an answer that is none."""


class ServingTimeoutError(ServingError, TimeoutError):
    """A server that did not answer in time; it may still be at work on the request."""


class DataError(EmbkerasError, ValueError):
    """Labelled text that cannot be read or split."""


class DownloadError(EmbkerasError, OSError):
    """Demo material that could not be fetched, or arrived damaged."""


class OutputError(EmbkerasError, OSError):
    """A file or folder that cannot be written."""


class MissingDependencyError(EmbkerasError, ImportError):
    """An optional package that is not installed; the message names the extra that brings it."""


class BackendError(EmbkerasError, ImportError):
    """Keras runs on another backend than TensorFlow."""


class EmbkerasWarning(UserWarning):
    """Something that works, but most likely not as intended."""

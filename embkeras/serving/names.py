"""What an export's files, signatures and version folders are called, and how its card is read. Without TensorFlow."""

import json
import re
from pathlib import Path
from typing import Any

from embkeras._checks import path as checked_path
from embkeras._checks import shown
from embkeras.errors import EmbkerasError, SavedModelError

CARD_FILE, VOCABULARY_FILE, TOKENS_FILE, CLASSES_FILE = "embkeras.json", "vocabulary.json", "tokens.txt", "classes.txt"
METADATA_FILE = "metadata.json"
SERVING, SERVING_INT32, TEXT, EMBED, CARD = "serving_default", "serving_int32", "text", "embed", "card"
TOKEN_IDS, REQUEST = "token_ids", "request"  # inputs
LARGEST_VERSION = 2**63 - 1  # servers parse an int64
_CARD_KEYS = (
    "encoding", "vocabulary_fingerprint", "tokenizer_fingerprint", "vocabulary_size", "padding_id", "oov_id", "class_names",
    "outputs", "out_of_range", "min_length", "max_length", "warm_up", "embed", "no_text_reason", "dtype", "precision",
    "tables",
)  # fmt: skip


def versions(path: Path) -> dict[int, Path]:
    """Everything in a model's folder that TensorFlow Serving takes for a version, by number: "0001" is version 1.

    Files are included. Numbers of 2**63 and more are not: no server reads them.

    Raises:
        SavedModelError: two entries have the same number, or the folder can't be read.
    """
    found: dict[int, Path] = {}
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise SavedModelError(f"Can't read the folder {str(path)!r}: {error.strerror}.") from error
    for entry in entries:
        if not re.fullmatch("[0-9]+", entry.name) or int(entry.name) > LARGEST_VERSION:
            continue
        first = found.setdefault(int(entry.name), entry)
        if first is not entry:
            raise SavedModelError(
                f"{str(path)!r} has two entries for version {int(entry.name)}: {first.name!r} and {entry.name!r}. Remove one."
            )
    return found


def export_folder(path: Any) -> Path:
    """The folder of the highest version in a model's folder, or the path itself if it contains no versions."""
    path = checked_path(path, "path")
    folders = {number: entry for number, entry in versions(path).items() if entry.is_dir()}
    return folders[max(folders)] if folders else path


def parsed_card(text: bytes | str, source: str, error: type[EmbkerasError]) -> dict[str, Any]:
    """The card as data; raises the given class of error if the card is damaged."""
    try:
        card = json.loads(text)
        card = card | {key: card[key] for key in _CARD_KEYS}
        classes = card["class_names"]
        if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise ValueError(f"class_names is {shown(classes)}")
        return card
    except (ValueError, LookupError, TypeError, RecursionError) as reason:
        raise error(
            f"{source} has a card that is damaged, or was written by another version of embkeras: {reason!r}. "
            f"Export the model again."
        ) from reason


def read_card(assets: Path) -> dict[str, Any]:
    """The card in a folder of assets."""
    try:
        text = (assets / CARD_FILE).read_bytes()
    except OSError as error:
        raise SavedModelError(f"{str(assets)!r} has no card that can be read: {error.strerror}.") from error
    return parsed_card(text, repr(str(assets)), SavedModelError)


def first_line(text: str) -> str:
    """The first line of a long message."""
    return (text.strip().splitlines() or [""])[0]


def root_cause(error: BaseException) -> BaseException:
    """The error that others were raised from; Keras, TensorFlow and requests wrap what they catch."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error

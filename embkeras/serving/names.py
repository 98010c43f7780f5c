"""What an export's files, signatures and version folders are called, and how its card is read. Without TensorFlow."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embkeras._checks import address, one_of, shown
from embkeras._checks import path as checked_path
from embkeras.errors import ArgumentError, EmbkerasError, SavedModelError

CARD_FILE, VOCABULARY_FILE, TOKENS_FILE, CLASSES_FILE = "embkeras.json", "vocabulary.json", "tokens.txt", "classes.txt"
METADATA_FILE = "metadata.json"
SERVING, SERVING_INT32, TEXT, EMBED, CARD = "serving_default", "serving_int32", "text", "embed", "card"
NEAREST = "nearest"
SIGNATURES = (SERVING, SERVING_INT32, TEXT, EMBED, CARD, NEAREST)  # and one for each tower
TOKEN_IDS, REQUEST, K = "token_ids", "request", "k"  # inputs
VECTORS, NEIGHBOURS, SCORES = "vectors", "neighbours", "scores"  # outputs
CANDIDATES = "candidates"  # the variable that `nearest` searches
IDS, FEATURE, MASK = "ids", "feature", "mask"  # kinds of inputs
LONG_TEXTS = ("cut", "error")  # what to do with texts of more tokens than a model takes
_FETCHING = {  # scheme -> the command that fetches a folder
    "s3": "aws s3 sync {} model/",
    "gs": "gcloud storage cp -r {} ./",
    "az": "python -c \"import fsspec; fsspec.filesystem('az').get({}, 'model/', recursive=True)\"",
}
CARD_SHA256 = "card_sha256"
LARGEST_VERSION = 2**63 - 1  # servers parse an int64
_CARD = {  # key -> type
    "encoding": str, "vocabulary_fingerprint": str, "tokenizer_fingerprint": str | None, "vocabulary_size": int,
    "padding_id": int | None, "oov_id": int, "class_names": list | None, "outputs": list, "out_of_range": str,
    "long_texts": str,
    "min_length": int, "max_length": int | None, "warm_up": list, "embed": str | None, "no_text_reason": str | None,
    "dtype": str, "precision": str, "tables": dict, "weights_sha256": str, "card_sha256": str, "inputs": list, "answers": list,
    "towers": list, "nearest": dict | None, "no_nearest_reason": str | None, "masks": list,
}  # fmt: skip
_LISTED = {
    "class_names": str,
    "outputs": str,
    "warm_up": int,
    "inputs": dict,
    "answers": dict,
    "towers": dict,
    "masks": dict,
}


_INPUT = {"name": str, "kind": str, "dtype": str, "shape": list, "beside": str | None, "pads": bool}
_IDS_INPUT = {
    "encoding": str, "vocabulary_fingerprint": str, "tokenizer_fingerprint": str | None, "vocabulary_size": int,
    "vocabulary_file": str | None, "padding_id": int | None, "padding_side": str, "oov_id": int, "min_length": int,
    "max_length": int | None,
}  # fmt: skip
_MASK = {"name": str, "of": str, "dtype": str, "place": int}
_ANSWER = {"name": str, "kind": str, "of": str | None, "shape": list, "activation": str | None}
_TOWER = {"name": str, "layer": str, "call": int, "inputs": list, "width": int}
_NEAREST = {
    "tower": str, "of": str, "count": int, "excluded": list, "similarity": str, "ids_of": str | None, "stored": bool,
}  # fmt: skip


def versions(path: Any) -> dict[int, Any]:
    """Everything in a model's folder that TensorFlow Serving takes for a version, by number: "0001" is version 1.

    Files are included. Numbers of 2**63 and more are not: no server reads them.

    Args:
        path: a `pathlib.Path`, or a folder of an object store.

    Raises:
        SavedModelError: two entries have the same number, or the folder can't be read.
    """
    found: dict[int, Any] = {}
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise SavedModelError(f"Can't read the folder {str(path)!r}: {error.strerror or error}.") from error
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
    if (found := address(path)) and found[0].lower() in _FETCHING:
        place = f"{found[0]}://{found[1]}"
        raise ArgumentError(
            f"path must be a folder on this machine. Received: the address {place!r}. Fetch the folder first: "
            f"{_FETCHING[found[0].lower()].format(repr(place))}"
        )
    path = checked_path(path, "path")
    folders = {number: entry for number, entry in versions(path).items() if entry.is_dir()}
    return folders[max(folders)] if folders else path


def saved_model_folder(path: Any) -> Path:
    """The folder of the highest version of an exported model, or the path itself if it contains no versions.

    Raises:
        SavedModelError: there is no SavedModel in it.
    """
    folder = export_folder(path)
    if not (folder / "saved_model.pb").is_file():
        raise SavedModelError(f"There is no exported model in {str(path)!r}: saved_model.pb is missing.")
    return folder


def check_model_name(name: str) -> None:
    """Refuse a name that would need quotes in the settings of a server: each file quotes differently."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ArgumentError(
            f"with_config=True names the model like its folder, which may contain letters, digits, '_', '.' and '-'. "
            f"Received: {shown(name)}."
        )


def long_texts_of(card: Mapping[str, Any], given: str | None) -> str:
    """What to do with a text of more tokens than the model takes: what was given, or else what the export does."""
    return str(card["long_texts"] if given is None else one_of(given, "long_texts", LONG_TEXTS))


def parsed_card(text: bytes | str, source: str, error: type[EmbkerasError]) -> dict[str, Any]:
    """The card as data; raises the given class of error if the card is damaged."""
    try:
        card = json.loads(text, parse_int=_int64, parse_constant=_no_number)
        wrong = [key for key, kind in _CARD.items() if not isinstance(card[key], kind)]
        for key, kind in _LISTED.items():
            if isinstance(card[key], list) and not all(isinstance(each, kind) for each in card[key]):
                wrong.append(key)
        if wrong:
            raise ValueError(f"{wrong[0]} is {shown(card[wrong[0]])}")
        if card[CARD_SHA256] != card_sha256(card):
            raise ValueError(f"{CARD_SHA256} is not that of its contents")
        for each in card["inputs"]:
            _check_entry(each, _INPUT | (_IDS_INPUT if each.get("kind") != FEATURE else {}))
        for each in card["answers"]:
            _check_entry(each, _ANSWER)
        for each in card["towers"]:
            _check_entry(each, _TOWER)
        if card["nearest"] is not None:
            _check_entry(card["nearest"], _NEAREST)
        for each in card["masks"]:
            _check_entry(each, _MASK)
        if not any(each["kind"] == IDS for each in card["inputs"]):
            raise ValueError("no input takes ids")
        return card
    except (ValueError, LookupError, TypeError, RecursionError) as reason:
        raise error(
            f"{source} has a card that is damaged, or was written by another version of embkeras: {reason!r}. "
            f"Export the model again."
        ) from reason


def _check_entry(entry: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse an input or an answer of a card without a key, or with a value of another type."""
    for key, kind in kinds.items():
        if not isinstance(entry[key], kind):
            raise ValueError(f"{key} of {shown(entry.get('name'))} is {shown(entry[key])}")


def card_sha256(card: Mapping[str, Any]) -> str:
    """SHA-256 over a card but for its own entry, as 64 hexadecimal digits: a card that was damaged or edited has another."""
    contents = {key: value for key, value in card.items() if key != CARD_SHA256}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode("ascii")).hexdigest()


def _int64(digits: str) -> int:
    """An integer of a card; one beyond int64 fits no tensor."""
    if not -LARGEST_VERSION <= (number := int(digits)) <= LARGEST_VERSION:
        raise ValueError(f"{shown(number)} is beyond int64")
    return number


def _no_number(name: str) -> None:
    """Python's JSON has names for NaN and infinity."""
    raise ValueError(f"{name} is no number of JSON")


def read_card(assets: Path) -> dict[str, Any]:
    """The card in a folder of assets."""
    try:
        text = (assets / CARD_FILE).read_bytes()
    except OSError as error:
        raise SavedModelError(f"{str(assets)!r} has no card that can be read: {error.strerror}.") from error
    return parsed_card(text, repr(str(assets)), SavedModelError)


def text_inputs(ids: Sequence[str]) -> dict[str, str]:
    """The inputs of the signature `text` by those of ids: the same names, or `text` for the only one of a model."""
    return {name: TEXT if len(ids) == 1 and name == TOKEN_IDS else name for name in ids}

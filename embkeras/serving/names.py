"""What an export's files and signatures are called, and its card as it is read: without TensorFlow, for those who only ask."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embkeras.errors import SavedModelError

CARD_FILE, VOCABULARY_FILE, TOKENS_FILE, CLASSES_FILE = "embkeras.json", "vocabulary.json", "tokens.txt", "classes.txt"
ABOUT_FILE = "about.json"
SERVING, SERVING_INT32, TEXT, EMBED, ABOUT = "serving_default", "serving_int32", "text", "embed", "about"
TOKEN_IDS, ASKED, CARD = "token_ids", "asked", "card"  # inputs and outputs


def latest_version(path: Path) -> int | None:
    """The highest version under a model's folder, or None; folders that are not numbers do not count."""
    if not path.is_dir():
        return None
    numbers = [int(child.name) for child in path.iterdir() if child.is_dir() and re.fullmatch("[0-9]+", child.name)]
    return max(numbers, default=None)


def read_card(assets: Path, needed: Iterable[str]) -> dict[str, Any]:
    """The card in a folder of assets, which must say at least what is `needed`.

    Raises:
        SavedModelError: it is missing or damaged.
    """
    try:
        card = json.loads((assets / CARD_FILE).read_bytes())
        return card | {name: card[name] for name in needed}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise SavedModelError(f"{str(assets)!r} was not exported by embkeras, or is damaged: {error!r}.") from error


def first_line(text: str) -> str:
    """What a long message begins with."""
    return (text.strip().splitlines() or [""])[0]

"""The tokens of a Hugging Face `tokenizer.json`, by id, and the smallest such file that holds a list of words.

See https://huggingface.co/docs/tokenizers.
"""

import json
from pathlib import Path
from typing import Any

from embkeras.errors import VectorFileError

_NAME = "tokenizer.json"
_UNKNOWN = ("[UNK]", "<unk>")


def tokenizer_of(path: Path) -> Path:
    """Where the tokens of a table stand: `tokenizer.json` beside `model.safetensors`, `x.tokenizer.json` beside `x`."""
    return path.with_name(_NAME if path.stem == "model" else f"{path.stem}.{_NAME}")


def tokenizer_beside(path: Path) -> Path:
    """The tokenizer of a table that is there; one that has the table's name goes before one without.

    Raises:
        VectorFileError: there is none.
    """
    candidates = dict.fromkeys([tokenizer_of(path), path.with_name(_NAME)])
    there = next((candidate for candidate in candidates if candidate.is_file()), None)
    if there is None:
        names = " or ".join(candidate.name for candidate in candidates)
        raise VectorFileError(
            f"The words of {str(path)!r} should stand beside it in {names}; found none. Give words_file=."
        )
    return there


def read_tokens(path: Path, count: int) -> list[str]:
    """The tokens of the ids 0 to `count` - 1: those of the model, whatever its kind, and those added to it.

    Raises:
        VectorFileError: no tokenizer, an id without a token or with two, or another number of ids.
    """
    try:
        contents = json.loads(path.read_text("utf-8"))
        vocabulary = contents["model"]["vocab"]
        pairs = [(entry[0], id_) for id_, entry in enumerate(vocabulary)] if isinstance(vocabulary, list) else None
        pairs = list(vocabulary.items()) if pairs is None else pairs
        pairs += [(entry["content"], entry["id"]) for entry in contents.get("added_tokens") or []]
    except OSError as error:
        raise VectorFileError(f"Cannot read the words {str(path)!r}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise VectorFileError(
            f"{str(path)!r} is not a tokenizer with the tokens of a model: {type(error).__name__} {error}"
        ) from error
    return _by_id(pairs, count, path)


def _by_id(pairs: list[tuple[Any, Any]], count: int, path: Path) -> list[str]:
    tokens: list[Any] = [None] * count
    for token, id_ in pairs:
        if not isinstance(token, str) or type(id_) is not int or not 0 <= id_ < count:
            raise VectorFileError(
                f"{str(path)!r} must give a token to each id from 0 to {count - 1:,}, one a row of the table; "
                f"found {token!r} for the id {id_!r}."
            )
        if tokens[id_] not in (None, token):
            raise VectorFileError(f"{str(path)!r} gives the id {id_} to two tokens: {tokens[id_]!r} and {token!r}.")
        tokens[id_] = token
    if None in tokens:
        raise VectorFileError(
            f"{str(path)!r} must give a token to each id from 0 to {count - 1:,}, one a row of the table; "
            f"found none for the id {tokens.index(None)}."
        )
    return tokens


def tokenizer_text(words: list[str]) -> str:
    """A tokenizer that takes what stands between white space as a word: the smallest that holds the words.

    A text with other words can be encoded by it only if the words have "[UNK]" or "<unk>" among them.
    """
    unknown = next((word for word in _UNKNOWN if word in words), _UNKNOWN[0])
    contents: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    contents |= {"normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None}
    vocabulary = {word: id_ for id_, word in enumerate(words)}
    contents |= {"decoder": None, "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown}}
    return json.dumps(contents, ensure_ascii=False)

"""The tokenizer of a pre-trained encoder: texts to pieces of words, as the `tokenizers` library reads its tokenizer.json."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from embkeras._checks import path as checked_path
from embkeras._checks import shown, strings
from embkeras.errors import MissingDependencyError, VocabularyError
from embkeras.text.tokenizer import Tokenizer, check_unicode

_PADDING, _OOV = ("[PAD]", "<pad>"), ("[UNK]", "<unk>")
_KIND = "pieces"
_BERT_SETTINGS = {  # of a tokenizer_config.json -> their names in the library, and what they are by default
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


@dataclass(frozen=True)
class PieceTokenizer:
    """Splits texts into the pieces of a tokenizer.json, special ones such as "[CLS]" and "[SEP]" included.

    Args:
        definition: the contents of a tokenizer.json. What it says about truncation and padding is ignored:
            `Vocabulary.encode_batch` does both.

    Raises:
        VocabularyError: not the contents of a tokenizer.json.
        MissingDependencyError: tokenizers is not installed.
    """

    definition: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            data = dict(json.loads(self.definition), truncation=None, padding=None)
        except (TypeError, ValueError, RecursionError) as error:
            raise VocabularyError(f"A tokenizer.json must be a JSON object. Received: {error}.") from None
        object.__setattr__(self, "definition", json.dumps(data))
        _ = self._library  # refuse a damaged definition now, not at the first text

    @cached_property
    def _library(self) -> Any:
        try:
            return tokenizers_package().Tokenizer.from_str(self.definition)
        except MissingDependencyError:
            raise
        except Exception as error:  # the library raises Exception itself
            raise VocabularyError(f"The tokenizers library can't read this tokenizer.json: {error}.") from None

    @cached_property
    def frame(self) -> tuple[int, int]:
        """How many special pieces are put before a text and after it; a text that is cut keeps them."""
        inside = len(self._library.encode("a", add_special_tokens=False).ids)
        mask = self._library.encode("a").special_tokens_mask
        before = mask.index(0) if 0 in mask else len(mask) - inside
        return before, len(mask) - inside - before

    @cached_property
    def pair_frame(self) -> tuple[list[str], list[str], list[str]]:
        """The special pieces in front of a pair of texts, between the two, and after them."""
        found = self._library.encode("a", "b")
        of = found.sequence_ids
        first = [place for place, text in enumerate(of) if text == 0]
        second = [place for place, text in enumerate(of) if text == 1]
        if not first or not second:
            raise VocabularyError("This tokenizer makes no pieces of the texts 'a' and 'b', so it can't encode pairs.")
        tokens = list(found.tokens)
        return tokens[: first[0]], tokens[first[-1] + 1 : second[0]], tokens[second[-1] + 1 :]

    def with_places(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """The pieces of a text without special ones around them, and the characters that each stands for, as (start, end).

        Raises:
            VocabularyError: not a string, or one with half a surrogate pair.
        """
        _check_text(text)
        found = self._library.encode(text, add_special_tokens=False)
        return list(found.tokens), list(found.offsets)

    def __call__(self, text: str) -> list[str]:
        """The pieces of `text`, in order.

        Raises:
            VocabularyError: not a string, or one with half a surrogate pair.
        """
        _check_text(text)
        return list(self._library.encode(text).tokens)

    def pair(self, first: str, second: str, length: int | None = None) -> list[str]:
        """The pieces of two texts in one row; if they are more than `length`, the longer text is cut first.

        Where a text spells out a special piece, such as "[SEP]", that is a token that no vocabulary has: it separates nothing.

        Raises:
            VocabularyError: not a string, one with half a surrogate pair, or a `length` that leaves room for no piece.
        """
        for text in (first, second):
            _check_text(text)
        special = self._library.num_special_tokens_to_add(True)
        if length is not None and length < special + 2:
            raise VocabularyError(
                f"length must be at least {special + 2}: {special} pieces of a pair are special. Received: {length}."
            )
        found = _cut_to(self, length).encode(first, second)
        pieces = list(zip(found.tokens, found.sequence_ids, strict=True))
        special = {piece for piece, text in pieces if text is None}
        return [piece if text is None or piece not in special else f"{piece} in a text" for piece, text in pieces]

    def of_words(self, words: Sequence[str]) -> tuple[list[str], list[int | None]]:
        """The pieces of a text that is split into words already, and for each the place of its word; None if special.

        Raises:
            VocabularyError: not strings.
        """
        words = strings(words, "words", error=VocabularyError)
        for word in words:
            check_unicode(word)
        found = self._library.encode(words, is_pretokenized=True)
        return list(found.tokens), list(found.word_ids)

    def text_of(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text that ids spell; with `special`, special pieces too. Half a character becomes "\ufffd"."""
        return str(self._library.decode(list(ids), skip_special_tokens=not special))

    def pieces(self) -> dict[str, int]:
        """Every piece and its id."""
        return dict(self._library.get_vocab(with_added_tokens=True))

    def needed(self, counts: Mapping[str, int], min_count: int, special: Iterable[str]) -> list[str]:
        """The pieces that occur `min_count` times, the special ones, and all single characters, in the order of ids."""
        added = (each["content"] for each in json.loads(self.definition)["added_tokens"])
        special = {*special, *added, *self("")}
        ids = self.pieces()
        kept = (
            piece
            for piece in ids
            if counts.get(piece, 0) >= min_count or piece in special or len(piece.removeprefix("##")) == 1
        )
        return sorted(kept, key=ids.__getitem__)

    def trimmed(self, pieces: Sequence[str]) -> "PieceTokenizer":
        """The tokenizer with these pieces alone, whose ids are their places.

        Word pieces are matched from the longest down (Wu et al. 2016), so a text all of whose pieces are left is split as
        before. That holds for no other kind of model.

        Raises:
            VocabularyError: another kind of model.
        """
        data = json.loads(self.definition)
        if data["model"].get("type") != "WordPiece":
            raise VocabularyError(
                f"Only a tokenizer of word pieces, as BERT's, can be trimmed. "
                f"Received: a {data['model'].get('type')} model, whose pieces are made from others."
            )
        ids = {piece: place for place, piece in enumerate(pieces)}
        data["model"]["vocab"] = ids
        data["added_tokens"] = [each | {"id": ids[each["content"]]} for each in data["added_tokens"]]
        after = data.get("post_processor") or {}
        for end in {"sep", "cls"} & set(after):  # BertProcessing
            after[end][1] = ids[after[end][0]]
        for each in after.get("special_tokens", {}).values():  # TemplateProcessing
            each["ids"] = [ids[token] for token in each["tokens"]]
        return PieceTokenizer(json.dumps(data))

    def to_dict(self) -> dict[str, Any]:
        """The tokenizer as plain data for JSON."""
        return {_KIND: self.definition}


@lru_cache(maxsize=4)
def _cut_to(tokenizer: PieceTokenizer, length: int | None) -> Any:
    """The library's tokenizer that cuts to a length."""
    made = tokenizers_package().Tokenizer.from_str(tokenizer.definition)
    if length is not None:
        made.enable_truncation(length)
    return made


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise VocabularyError(f"A text must be a str. Received: {shown(text)} of type {type(text).__name__}.")
    check_unicode(text)


def from_dict(data: Any) -> "Tokenizer | PieceTokenizer":
    """The tokenizer that `to_dict` of either kind described.

    Raises:
        VocabularyError: other data.
    """
    return PieceTokenizer(data[_KIND]) if isinstance(data, Mapping) and _KIND in data else Tokenizer.from_dict(data)


def read_tokenizer(path: Any, size: int | None = None) -> dict[str, Any]:
    """The arguments with which `Vocabulary` has the ids of a tokenizer's file; see `Vocabulary.from_tokenizer`."""
    file = _file(checked_path(path, "path"))
    settings = _json(file.with_name("tokenizer_config.json"), required=False)
    model: dict[str, Any] = {}
    if file.suffix == ".txt":
        tokenizer, padding = word_pieces(file, settings), None
    else:
        data = _json(file)
        model, padding = data.get("model") or {}, _named(data.get("padding") or {}, "pad_token")
        try:
            tokenizer = PieceTokenizer(json.dumps(data))
        except VocabularyError as error:
            raise VocabularyError(f"{str(file)!r} is not a tokenizer that can be read: {error}") from None
    ids = tokenizer.pieces()
    last = max(ids.values(), default=-1)
    if size is not None and last >= size:
        raise VocabularyError(
            f"The tokenizer {str(file)!r} has ids up to {last}, but the table of the encoder has {size} rows: "
            f"they don't belong together."
        )
    tokens = [f"[no piece {id_}]" for id_ in range(last + 1 if size is None else size)]
    for piece, id_ in ids.items():
        tokens[id_] = piece
    padding_id = _id_of(ids, (padding, _named(settings, "pad_token"), *_PADDING))
    unknown = model.get("unk_token")
    if isinstance(model.get("unk_id"), int):
        unknown = model["vocab"][model["unk_id"]][0]
    oov_id = _id_of(ids, (unknown, _named(settings, "unk_token"), *_OOV))
    return {
        "tokens": tokens,
        "padding_id": padding_id,
        "oov_ids": () if oov_id is None else (oov_id,),
        "tokenizer": tokenizer,
    }


def _file(path: Path) -> Path:
    """The tokenizer's file: the path itself, or the one in the folder."""
    if not path.is_dir():
        return path
    for name in ("tokenizer.json", "vocab.txt"):
        if (path / name).is_file():
            return path / name
    raise VocabularyError(
        f"There is no tokenizer.json and no vocab.txt in {str(path)!r}. Hugging Face's "
        f"AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json."
    )


def _json(path: Path, required: bool = True) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        if not required:
            return {}
        raise VocabularyError(f"Cannot read the tokenizer {str(path)!r}: there is no such file.") from None
    except OSError as error:
        raise VocabularyError(f"Cannot read the tokenizer {str(path)!r}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{str(path)!r} is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise VocabularyError(f"{str(path)!r} must contain a JSON object. Received: {type(data).__name__}.")
    return data


def word_pieces(file: Path, settings: Mapping[str, Any]) -> PieceTokenizer:
    """BERT's tokenizer from its list of pieces and the settings beside it."""
    library = tokenizers_package()
    try:
        pieces = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"Cannot read the pieces {str(file)!r}: {error}.") from None
    ids = {piece.removesuffix("\r"): id_ for id_, piece in enumerate(pieces) if piece.removesuffix("\r")}
    missing = [piece for piece in ("[UNK]", "[CLS]", "[SEP]") if piece not in ids]
    if missing:
        raise VocabularyError(
            f"{str(file)!r} is not the list of pieces of a BERT: it has no {', '.join(missing)}. Pass a tokenizer.json."
        )
    found = {}
    for name, (theirs, default) in _BERT_SETTINGS.items():
        found[theirs] = value = settings.get(name, default)
        if not isinstance(value, bool) and value is not default:
            raise VocabularyError(
                f"{name} of the tokenizer {str(file)!r} must be true or false. Received: {shown(value)}."
            )
    made = library.implementations.BertWordPieceTokenizer(ids, **found)
    return PieceTokenizer(made.to_str())


def byte_pieces(ids: Path, merges: Path, add_prefix_space: bool) -> PieceTokenizer:
    """RoBERTa's tokenizer from its pieces, a JSON object of their ids, and its list of merges.

    Raises:
        VocabularyError: damaged files, or pieces without the special ones.
    """
    library, known = tokenizers_package(), _json(ids)
    missing = [piece for piece in ("<s>", "<pad>", "</s>") if piece not in known]
    if missing:
        raise VocabularyError(f"{str(ids)!r} has not the pieces of a RoBERTa: it has no {', '.join(missing)}.")
    try:
        made = library.ByteLevelBPETokenizer(str(ids), str(merges), add_prefix_space=add_prefix_space)
    except Exception as error:  # the library raises Exception itself
        raise VocabularyError(f"The tokenizers library can't read {str(merges)!r}: {error}.") from None
    made.add_special_tokens([piece for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if piece in known])
    ends = [(piece, known[piece]) for piece in ("</s>", "<s>")]
    made.post_processor = library.processors.RobertaProcessing(*ends, add_prefix_space=add_prefix_space)
    return PieceTokenizer(made.to_str())


def _named(settings: Any, key: str) -> Any:
    """A token in a tokenizer_config.json: a string, or an object with its content."""
    value = settings.get(key) if isinstance(settings, Mapping) else None
    return value.get("content") if isinstance(value, Mapping) else value


def _id_of(ids: Mapping[str, int], candidates: tuple[Any, ...]) -> int | None:
    return next((ids[each] for each in candidates if isinstance(each, str) and each in ids), None)


def tokenizers_package() -> Any:
    """The `tokenizers` library.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError(
            f'The tokenizer of an encoder needs the package {error.name}: python -m pip install "embkeras[contextual]".'
        ) from None
    return tokenizers

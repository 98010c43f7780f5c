"""Reading the vocabulary of a Keras preprocessing layer or of older Keras' Tokenizer, without importing Keras."""

import re
import string
from collections.abc import Mapping
from typing import Any

from embkeras._checks import is_whole, shown, strings, whole_number
from embkeras.errors import VocabularyError
from embkeras.text.tokenizer import Tokenizer, check_tokenizer

_MARKS = "".join(f"\\{mark}" for mark in string.punctuation)
# TextVectorization's `standardize`, as tokenizer settings; by default it splits at white space.
_STANDARDIZE = {
    None: Tokenizer(lowercase=False),
    "lower": Tokenizer(lowercase=True),
    "strip_punctuation": Tokenizer(rules=((f"[{_MARKS}]", ""),), lowercase=False),
    "lower_and_strip_punctuation": Tokenizer(rules=((f"[{_MARKS}]", ""),), lowercase=True),
}


_LOOKS_OOV = re.compile(
    r"[^\w\s'\"]+(?:unk|unknown|oov)[^\w\s'\"]+", re.IGNORECASE
)  # "<OOV>" and "[UNK]", not a word in quotes
_PADDING_NAMES = {"pad", "padding", "mask"}
_LAYERS = ("TextVectorization", "StringLookup", "IntegerLookup", "Hashing")


def read_layer(layer: Any, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """The arguments with which `Vocabulary` has the ids of a layer; see `Vocabulary.from_layer`."""
    kinds = [kind.__name__ for kind in type(layer).__mro__ if kind.__name__ in _LAYERS]
    if not kinds:
        raise VocabularyError(
            f"from_layer reads a layer of one of the kinds {', '.join(_LAYERS)}. Received: {type(layer).__name__}."
        )
    kind, config = kinds[0], layer.get_config()
    if config["output_mode"] != "int":
        raise VocabularyError(f'The layer must have output_mode="int". Received: {config["output_mode"]!r}.')
    padding, oovs, own_tokenizer = True, 1, None
    if kind == "Hashing":
        padding = config["mask_value"] is not None and config["num_bins"] > 1
        oovs = config["num_bins"] - padding
        tokens = [""] * padding + ["[UNK]"] * oovs
    else:
        tokens = [str(token) for token in layer.get_vocabulary()]
        if kind == "TextVectorization":
            own_tokenizer = _tokenizer_of(config)
        else:
            padding, oovs = config["mask_token"] is not None, config["num_oov_indices"]
        if len(tokens) <= padding + oovs:
            raise VocabularyError(f"Layer {layer.name!r} has no vocabulary yet: adapt it, or give it one, first.")
    if tokenizer is not None:
        check_tokenizer(tokenizer)
        if own_tokenizer is not None:
            raise VocabularyError(f"The layer splits texts itself: pass no tokenizer. Received: {tokenizer!r}.")
        _check_hash(kind, config, oovs)
        if config.get("encoding", "utf-8") != "utf-8":
            raise VocabularyError(
                f'A tokenizer needs a layer with encoding="utf-8". Received: encoding={config["encoding"]!r}.'
            )
    return {
        "tokens": tokens,
        "padding_id": 0 if padding else None,
        "oov_ids": tuple(range(padding, padding + oovs)),
        "tokenizer": tokenizer or own_tokenizer,
    }


def _check_hash(kind: str, config: Mapping[str, Any], oovs: int) -> None:
    """Refuse to encode for a layer that chooses among several OOV ids in another way than `Vocabulary.encode`."""
    if oovs < 2:
        return
    advice = "pass no tokenizer, and encode with the layer"
    if kind == "IntegerLookup":
        raise VocabularyError(
            f"embkeras can't reproduce how an IntegerLookup chooses among several OOV ids: {advice}. "
            f"Received: num_oov_indices={oovs}."
        )
    if config.get("salt") is not None:
        raise VocabularyError(
            f"embkeras can't reproduce the salted hash that chooses among several OOV ids: {advice}. "
            f"Received: salt={config['salt']!r}, {'num_bins' if kind == 'Hashing' else 'num_oov_indices'}={oovs}."
        )


def read_word_index(word_index: Any, num_words: int | None, oov_token: str | None) -> dict[str, Any]:
    """The arguments with which `Vocabulary` has the ids of a `word_index`; see `Vocabulary.from_word_index`."""
    if not isinstance(word_index, Mapping) or not all(map(is_whole, word_index.values())):
        raise VocabularyError(
            f"from_word_index takes tokenizer.word_index, which maps each word to its id. Received: {shown(word_index)}."
        )
    strings(word_index, "The words of word_index", error=VocabularyError)
    if num_words is not None:
        num_words = whole_number(num_words, "num_words", least=2, error=VocabularyError)
    words = {int(id_): word for word, id_ in word_index.items() if num_words is None or id_ < num_words}
    tokens = [words.get(0, "")] + [words[id_] for id_ in sorted(words) if id_ != 0]
    _check_ids(word_index, words)
    if tokens[0].isalnum() and tokens[0].lower() not in _PADDING_NAMES:
        raise VocabularyError(
            f"word_index has id 0 for {tokens[0]!r}, and id 0 is the padding here. If its ids begin at 0, add 1 to each, or "
            f"use Vocabulary(words, padding_id=None, oov_ids=())."
        )
    oov_ids = () if oov_token is None else (_id_of_oov(word_index, words, oov_token),)
    if not oov_ids:
        for word in tokens[1:]:
            if _LOOKS_OOV.fullmatch(word):
                raise VocabularyError(
                    f"word_index has the word {word!r} (id {word_index[word]}), which looks like an OOV token: pass "
                    f"oov_token={word!r}, so that unknown words get its id instead of being dropped."
                )
    return {"tokens": tokens, "padding_id": 0, "oov_ids": oov_ids, "drop_unknown": not oov_ids}


def _check_ids(word_index: Mapping[str, int], words: Mapping[int, str]) -> None:
    """Refuse ids that are not 1, 2, ... or 0, 1, ... without gaps: the rows of a table would belong to other words."""
    rule = "The ids of word_index must be 1, 2, 3, ... without gaps (0 may be the padding)"
    if not set(words) - {0}:
        raise VocabularyError(f"{rule}. Received: no word with an id of 1 or more.")
    seen: dict[int, str] = {}
    for word, id_ in word_index.items():
        if id_ < 0 or seen.setdefault(int(id_), word) != word:
            other = f", as {seen[int(id_)]!r} has" if id_ >= 0 else ""
            raise VocabularyError(f"{rule}. Received: id {id_} for {word!r}{other}.")
    missing = next((id_ for id_ in range(1, max(words)) if id_ not in words), None)
    if missing is not None:
        raise VocabularyError(
            f"{rule}. Received: no word with id {missing}, and {words[max(words)]!r} with id {max(words)}. Name the ids "
            f"between words, such as those for the start and the end of a text, in word_index too."
        )


def _id_of_oov(word_index: Mapping[str, int], words: Mapping[int, str], oov_token: Any) -> int:
    id_ = word_index.get(oov_token) if isinstance(oov_token, str) else None
    if id_ is None or id_ not in words:
        raise VocabularyError(f"oov_token must be a word of word_index. Received: {shown(oov_token)}.")
    return int(id_)


def _tokenizer_of(config: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that splits as a TextVectorization does, or None where its settings are not plain data."""
    if config.get("ngrams") or config["split"] != "whitespace" or config.get("encoding", "utf-8") != "utf-8":
        return None
    standardize = config["standardize"]
    return _STANDARDIZE.get(standardize) if isinstance(standardize, str | None) else None

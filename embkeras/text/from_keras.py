"""Reading the vocabulary of a Keras preprocessing layer, through its public methods and without importing Keras."""

import string
from dataclasses import dataclass, replace
from typing import Any

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


@dataclass(frozen=True)
class LayerVocabulary:
    """The ids of a preprocessing layer."""

    tokens: list[str]
    padding_id: int | None
    oov_ids: tuple[int, ...]
    tokenizer: Tokenizer | None


def read_layer(layer: Any, tokenizer: Tokenizer | None = None) -> LayerVocabulary:
    """The ids of an adapted `TextVectorization` or `StringLookup`.

    Args:
        layer: the layer.
        tokenizer: splits the texts for a layer that doesn't, such as a StringLookup.

    Raises:
        VocabularyError: another kind of layer, one without a vocabulary, one that does not output ids, or a tokenizer
            for a layer that has one or whose ids `encode` could not reproduce.
    """
    kinds = {kind.__name__ for kind in type(layer).__mro__}
    if not kinds & {"TextVectorization", "StringLookup"}:
        raise VocabularyError(
            f"from_layer reads a TextVectorization or a StringLookup. Received: {type(layer).__name__}."
        )
    config = layer.get_config()
    if config["output_mode"] != "int":
        raise VocabularyError(f'The layer must have output_mode="int". Received: {config["output_mode"]!r}.')
    tokens = [str(token) for token in layer.get_vocabulary()]
    if "TextVectorization" in kinds:
        special = 2
        read = LayerVocabulary(tokens, 0, (1,), _text_tokenizer(config))
    else:
        first = 0 if config["mask_token"] is None else 1
        special = first + config["num_oov_indices"]
        read = LayerVocabulary(tokens, 0 if first else None, tuple(range(first, special)), None)
    if len(tokens) <= special:
        raise VocabularyError(f"Layer {layer.name!r} has no vocabulary yet: adapt it, or give it one, first.")
    return read if tokenizer is None else _with_tokenizer(read, tokenizer, config)


def _with_tokenizer(read: LayerVocabulary, tokenizer: Tokenizer, config: dict[str, Any]) -> LayerVocabulary:
    """The ids together with a tokenizer, if `encode` can then reproduce those of the layer."""
    check_tokenizer(tokenizer)
    if read.tokenizer is not None:
        raise VocabularyError(f"The layer splits texts itself: pass no tokenizer. Received: {tokenizer!r}.")
    if config.get("salt") is not None and len(read.oov_ids) > 1:
        raise VocabularyError(
            f"embkeras can't reproduce the salted hash that chooses among several OOV ids: pass no tokenizer, and encode "
            f"with the layer. Received: salt={config['salt']!r}, num_oov_indices={len(read.oov_ids)}."
        )
    if config.get("encoding", "utf-8") != "utf-8":
        raise VocabularyError(
            f'A tokenizer needs a layer with encoding="utf-8". Received: encoding={config["encoding"]!r}.'
        )
    return replace(read, tokenizer=tokenizer)


def _text_tokenizer(config: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that splits as the layer does, or None where its settings are not plain data."""
    if config.get("ngrams") or config["split"] != "whitespace" or config.get("encoding", "utf-8") != "utf-8":
        return None
    standardize = config["standardize"]
    return _STANDARDIZE.get(standardize) if isinstance(standardize, str | None) else None

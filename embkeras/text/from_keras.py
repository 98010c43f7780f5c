"""Reading the vocabulary of a Keras preprocessing layer, through its public methods and without importing Keras."""

import string
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


def read_layer(layer: Any, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """The arguments with which `Vocabulary` has the ids of an adapted layer; see `Vocabulary.from_layer`."""
    kinds = {kind.__name__ for kind in type(layer).__mro__}
    if not kinds & {"TextVectorization", "StringLookup"}:
        raise VocabularyError(
            f"from_layer reads a TextVectorization or a StringLookup. Received: {type(layer).__name__}."
        )
    config = layer.get_config()
    if config["output_mode"] != "int":
        raise VocabularyError(f'The layer must have output_mode="int". Received: {config["output_mode"]!r}.')
    tokens = [str(token) for token in layer.get_vocabulary()]
    padding, oovs, own_tokenizer = True, 1, None
    if "TextVectorization" in kinds:
        own_tokenizer = _tokenizer_of(config)
    else:
        padding, oovs = config["mask_token"] is not None, config["num_oov_indices"]
    if len(tokens) <= padding + oovs:
        raise VocabularyError(f"Layer {layer.name!r} has no vocabulary yet: adapt it, or give it one, first.")
    if tokenizer is not None:
        check_tokenizer(tokenizer)
        if own_tokenizer is not None:
            raise VocabularyError(f"The layer splits texts itself: pass no tokenizer. Received: {tokenizer!r}.")
        if config.get("salt") is not None and oovs > 1:
            raise VocabularyError(
                f"embkeras can't reproduce the salted hash that chooses among several OOV ids: pass no tokenizer, and "
                f"encode with the layer. Received: salt={config['salt']!r}, num_oov_indices={oovs}."
            )
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


def _tokenizer_of(config: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that splits as a TextVectorization does, or None where its settings are not plain data."""
    if config.get("ngrams") or config["split"] != "whitespace" or config.get("encoding", "utf-8") != "utf-8":
        return None
    standardize = config["standardize"]
    return _STANDARDIZE.get(standardize) if isinstance(standardize, str | None) else None

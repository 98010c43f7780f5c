"""Reading the vocabulary of a Keras preprocessing layer, through its public methods and without importing Keras."""

import string
from dataclasses import dataclass
from typing import Any

from embkeras.errors import VocabularyError
from embkeras.vectors.tokenizer import Tokenizer

_MARKS = "".join(f"\\{mark}" for mark in string.punctuation)
# TextVectorization's `standardize`, as tokenizer settings; its default split is at white space.
_STANDARDIZE = {
    None: Tokenizer(lowercase=False),
    "lower": Tokenizer(lowercase=True),
    "strip_punctuation": Tokenizer(rules=((f"[{_MARKS}]", ""),), lowercase=False),
    "lower_and_strip_punctuation": Tokenizer(rules=((f"[{_MARKS}]", ""),), lowercase=True),
}


@dataclass(frozen=True)
class LayerVocabulary:
    """What a preprocessing layer says about its ids."""

    tokens: list[str]
    padding_id: int | None
    oov_ids: tuple[int, ...]
    tokenizer: Tokenizer | None


def read_layer(layer: Any) -> LayerVocabulary:
    """The ids of an adapted `TextVectorization` or `StringLookup`.

    Raises:
        VocabularyError: another kind of layer, one without a vocabulary, or one that does not output ids.
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
        raise VocabularyError("The layer has no vocabulary yet: adapt it, or give it one, first.")
    return read


def _text_tokenizer(config: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that cuts as the layer does, or None where its settings are not plain data."""
    if config.get("ngrams") or config["split"] != "whitespace" or config.get("encoding", "utf-8") != "utf-8":
        return None
    standardize = config["standardize"]
    return _STANDARDIZE.get(standardize) if isinstance(standardize, str | None) else None

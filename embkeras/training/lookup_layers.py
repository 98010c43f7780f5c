"""Lookup layers inside a model (StringLookup, IntegerLookup, TextVectorization), whose ids are the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from embkeras.errors import ArgumentError
from embkeras.tables.addresses import walk
from embkeras.text.vocabulary import Vocabulary

_KINDS = (keras.layers.StringLookup, keras.layers.IntegerLookup)  # a TextVectorization holds a StringLookup


@dataclass(frozen=True)
class NewTokens:
    """A lookup layer and the tokens that it will have, without mask and OOV tokens."""

    layer: keras.layers.Layer
    tokens: list[str] | list[int]

    def apply(self) -> None:
        """Give the layer its new tokens, and its config too where the layer was made with a vocabulary."""
        self.layer.set_vocabulary(self.tokens)
        if self.layer.input_vocabulary is not None:
            self.layer.input_vocabulary = self.tokens


def new_tokens(
    model: keras.Model, tables: Sequence[keras.layers.Layer], before: Vocabulary, after: Vocabulary
) -> list[NewTokens]:
    """What the lookup layers of a model need when `tables` change their vocabulary from `before` to `after`.

    A lookup layer is affected if its ids are those of `before`, in either direction. Nothing is changed here.

    Raises:
        ArgumentError: a lookup layer that can't have the new tokens, that another table reads too, or whose tokens are as
            many as those of `before` but not the same.
    """
    found = [(path, layer) for path, layer in walk(model) if isinstance(layer, _KINDS) and layer.output_mode == "int"]
    same = [(path, layer) for path, layer in found if _has_ids_of(layer, before)]
    others = [
        path
        for path, layer in found
        if layer.vocabulary_size() == len(before) and not any(layer is each for _, each in same)
    ]
    if others and not same:
        raise ArgumentError(
            f"The table has {len(before)} rows, and layer {others[0]!r} of model {model.name!r} has as many tokens, but not "
            f"those of before. Pass before=Vocabulary.from_layer(layer) of the layer that makes the ids."
        )
    if same:
        _check_no_other_table(model, tables, before, same[0][0], len(others))
    return [
        _changed(path, layer, before, after)
        for path, layer in {id(layer): (path, layer) for path, layer in same}.values()
    ]


def _has_ids_of(layer: keras.layers.Layer, vocabulary: Vocabulary) -> bool:
    """Whether the layer maps the tokens of a vocabulary to the same ids; names of OOV tokens may differ."""
    if layer.vocabulary_size() != len(vocabulary):
        return False
    special = vocabulary.special_ids
    tokens = zip(map(str, layer.get_vocabulary()), vocabulary.tokens, strict=True)
    return special == set(range(_first_id(layer))) and all(
        one == other or id_ in special for id_, (one, other) in enumerate(tokens)
    )


def _first_id(layer: keras.layers.Layer) -> int:
    """The first id of a token, after those of the mask and of OOV tokens."""
    return (layer.mask_token is not None) + layer.num_oov_indices


def _check_no_other_table(
    model: keras.Model, tables: Sequence[keras.layers.Layer], before: Vocabulary, path: str, lookups: int
) -> None:
    """Refuse a lookup layer whose ids another table reads too: as many rows, and no lookup layer of its own."""
    changing = {id(table) for table in tables}
    others = {
        id(layer): name
        for name, layer in walk(model)
        if isinstance(layer, keras.layers.Embedding) and layer.input_dim == len(before) and id(layer) not in changing
    }
    if len(others) > lookups:
        raise ArgumentError(
            f"Layer {path!r} makes the ids of several tables, so change_vocabulary can't change one of them alone: "
            f"combine them (combine_embeddings), or make the ids outside of the model. Tables with {len(before)} rows that "
            f"would stay as they are: {', '.join(others.values())}."
        )


def _changed(path: str, layer: keras.layers.Layer, before: Vocabulary, after: Vocabulary) -> NewTokens:
    first = _first_id(layer)
    tokens = list(after.tokens[first:])
    problem = None
    if after.special_ids != before.special_ids:
        problem = (
            f"its mask and OOV ids are {sorted(before.special_ids)}, and those of after {sorted(after.special_ids)}"
        )
    elif layer.max_tokens is not None and len(after) > layer.max_tokens:
        problem = f"it was made with max_tokens={layer.max_tokens}, and after has {len(after)} tokens"
    elif not tokens:
        problem = "after has no tokens besides padding and OOV"
    elif isinstance(layer, keras.layers.IntegerLookup):
        wrong = next((token for token in tokens if not token.removeprefix("-").isdecimal()), None)
        problem = None if wrong is None else f"it takes integers, and after has the token {wrong!r}"
    if problem is not None:
        raise ArgumentError(
            f"Layer {path!r}, which makes the table's ids, can't take the vocabulary of after: {problem}."
        )
    return NewTokens(
        layer, [int(token) for token in tokens] if isinstance(layer, keras.layers.IntegerLookup) else tokens
    )

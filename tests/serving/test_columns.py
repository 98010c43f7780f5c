"""The inputs of a request: texts with gaps, and rows without ids."""

import numpy as np
import pandas as pd
import pytest

from embkeras.errors import ArgumentError
from embkeras.serving.columns import encoded_inputs, row_lengths
from embkeras.text.tokenizer import WORDS
from embkeras.text.vocabulary import Vocabulary

WORDS_OF = Vocabulary(["", "[UNK]", "good", "day"], tokenizer=WORDS)
IDS = {"kind": "ids", "shape": [None, None], "max_length": None, "oov_id": 1, "encoding": "Vocabulary"}
CARD = {
    "inputs": [
        IDS | {"name": "title"},
        IDS | {"name": "user", "shape": [None]},
        {"name": "age", "kind": "feature", "shape": [None, 1], "dtype": "float32"},
    ]
}


@pytest.mark.parametrize("name", ["title", "user"])
@pytest.mark.parametrize(
    "make", [list, pd.Series, lambda values: np.array(values, object)], ids=["list", "series", "array"]
)
def test_texts_with_a_gap_are_refused(name, make):
    """A missing value of a column, with its row: it is neither a text nor an id."""
    with pytest.raises(
        ArgumentError, match=rf"Input '{name}' must be a text in each row.* Received: (None|nan) in row 1\."
    ):
        encoded_inputs({name: make(["good", None, "day"])}, CARD, {name: WORDS_OF}, "cut")


def test_ids_and_numbers_stay_as_they_are():
    """In any form, and what other checks refuse."""
    given = {"title": [[2, 3], [2]], "user": np.array([2, 3]), "age": [None, 2.0], "other": ["good", None]}
    assert encoded_inputs(given, CARD, {}, "cut") == given
    for single in ("good", np.array("good", object), 7):
        assert encoded_inputs({"title": single}, CARD, {}, "cut")["title"] is single


@pytest.mark.parametrize(("title", "received"), [([[2], None], "None in row 1"), ([2, 3], "2 in row 0")])
def test_rows_without_ids_are_refused(title, received):
    """With the input and the row."""
    with pytest.raises(ArgumentError, match=rf"Input 'title' must be a text, or a row of ids.* Received: {received}"):
        row_lengths({"title": title, "user": [2, 2], "age": [[1.0], [2.0]]}, CARD)

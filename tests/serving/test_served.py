"""What a server says about a model: read, and held against its answers."""

import dataclasses

import numpy as np
import pytest

from embkeras.errors import ServingError
from embkeras.serving import names
from embkeras.serving.served import Served, parsed_metadata


def described(**signatures):
    """The JSON of a server's metadata."""
    return {"model_spec": {"version": "3"}, "metadata": {"signature_def": {"signature_def": signatures}}}


def served(*signatures):
    """A version with these signatures, which take ids and return two scores."""
    tensors = {
        "inputs": {names.TOKEN_IDS: ("int64", (None, None))},
        "outputs": {names.SCORES: ("float32", (None, 2))},
    }
    return Served("Model 'm' at host", 3, dict.fromkeys(signatures, tensors), None)


def test_what_a_card_says():
    """Which input has padding, the input that answers for each token belong to, and nothing without a card."""
    inputs = [{"name": "title", "padding_id": 0}, {"name": "user", "padding_id": None}]
    card = {"padding_id": None, "inputs": inputs, "answers": [{"name": "tags", "of": "title"}]}
    with_card = dataclasses.replace(served(names.SERVING), card=card)
    assert [with_card.has_padding(name) for name in ("title", "user", "other")] == [True, False, False]
    assert [with_card.token_input(output) for output in ("tags", "scores")] == ["title", None]
    without = served(names.SERVING)
    assert (without.padding_id, without.has_padding("title"), without.token_input("tags")) == (None, False, None)


def test_metadata_become_types_and_shapes():
    """An unknown size is None, an unknown rank only the batch; the signature that initialises tables is left out."""
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}
    unknown = {"dtype": "DT_STRING", "tensor_shape": {"unknown_rank": True}}
    found = parsed_metadata(
        described(serve={"outputs": {"a": tensor, "b": unknown}}, __saved_model_init_op={}), "Model 'm'"
    )
    assert found == (3, {"serve": {"inputs": {}, "outputs": {"a": ("float32", (None, 2)), "b": ("object", (None,))}}})


@pytest.mark.parametrize(
    "metadata", [None, {}, [], "text", described(serve=[1]), described(serve={"inputs": {"a": {}}})]
)
def test_other_metadata_are_refused(metadata):
    """The message names the model."""
    with pytest.raises(ServingError, match=r"Model 'm' returned metadata that can't be read"):
        parsed_metadata(metadata, "Model 'm'")


@pytest.mark.parametrize(("largest", "signature", "dtype"), [(2**31 - 1, "int32", "int32"), (2**31, "int64", "int64")])
def test_ids_that_fit_travel_as_int32(largest, signature, dtype):
    """One id beyond int32 makes all of them int64."""
    name, inputs = served(names.SERVING, names.SERVING_INT32).compacted({names.TOKEN_IDS: np.array([[1, largest]])})
    assert name == {"int32": names.SERVING_INT32, "int64": names.SERVING}[signature]
    assert inputs[names.TOKEN_IDS].dtype == dtype and inputs[names.TOKEN_IDS].tolist() == [[1, largest]]


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (np.zeros((2, 3), np.float32), r"type float32 and shape \(2, 3\), instead of numbers of shape \(any, 2\)"),
        (np.zeros(2, np.float32), r"shape \(2,\)"),
        (np.array([["a", "b"]] * 2), r"type <U1"),
        (np.array([[0, 1], [np.nan, 0]], np.float32), r"NaN for text 8, which is no score"),
        (np.array([[0, np.inf], [0, 0]], np.float32), r"infinity for text 5, which is no score"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(answer, received):
    """Another shape or type than described, or no number; the message names the text by its place."""
    with pytest.raises(ServingError, match=received):
        served(names.SERVING).check_answer(answer, (None, 2), np.array([5, 8]))


def test_an_output_that_is_not_there_is_refused():
    """The message names those that are."""
    with pytest.raises(ServingError, match=r"no output 'classes', only scores"):
        served(names.SERVING).output("classes")
    with pytest.raises(ServingError, match=rf"no signature 'embed'.*Its signatures: {names.SERVING}"):
        served(names.SERVING).output(names.VECTORS, names.EMBED)

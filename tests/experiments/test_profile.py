"""data_profile: a look at labelled texts before training."""

import json

import numpy as np
import pytest

from embkeras import AlignedMatrix, Tokenizer, Vocabulary, data_profile
from embkeras.errors import ArgumentError

WORDS = ["sun", "sky", "sea", "wind", "goal", "team", "match", "score"]


def _aligned():
    """Words of weather point one way and words of sports another."""
    values = np.random.default_rng(0).normal(0, 0.3, (10, 4)).astype("float32")
    values[2:6, 0] += 1
    values[6:, 1] += 1
    return AlignedMatrix(values, Vocabulary(["", "[UNK]", *WORDS], tokenizer=Tokenizer()))


def _texts(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return [" ".join(rng.choice(WORDS[4 * label : 4 * label + 4], 6)) for label in labels], labels


@pytest.fixture(scope="module")
def planted():
    """A profile of 200 texts of which the first ten have another label, and the profile's test part a copy of text 20."""
    texts, labels = _texts(200, seed=1)
    names = np.array(["weather", "sports"])[np.where(np.arange(200) < 10, 1 - labels, labels)]
    test = ["sun sky unheardof", texts[20].upper(), "goal team match match match match match"]
    return data_profile(texts, names, _aligned(), test=(test, ["weather", names[20], "weather"]))


def test_planted_labels_are_the_suspects(planted):
    """All of the ten, and of the others few: chance would be one in twenty."""
    found = planted.suspects[planted.suspects["part"] == "train"]
    assert set(found["text"]) >= set(range(10)) and len(found) <= 14
    assert (found["label"] != found["neighbours_label"]).all()
    assert (planted.suspects["share"] - planted.suspects["own_share"]).is_monotonic_decreasing
    assert planted.parts.at["train", "suspects"] == len(found)
    assert planted.parts.at["train", "agreement"] > 0.9


def test_labels_of_other_parts_are_asked_about_too(planted):
    """By their neighbours in training; the test text on a match is labelled as weather."""
    found = planted.suspects[planted.suspects["part"] == "test"]
    assert found[["text", "label", "neighbours_label"]].values.tolist() == [[2, "weather", "sports"]]


def test_copy_of_a_training_text_is_a_leak(planted):
    """It is counted, and the pair named with numbers from 0 in their own parts."""
    assert planted.parts.at["test", "in_train_exactly"] == 1
    leak = planted.duplicates[planted.duplicates["part"] == "test"]
    assert leak[["text", "of_part", "of_text", "exact"]].values.tolist() == [[1, "train", 20, True]]
    assert (leak["label"] == leak["of_label"]).all()


def test_leaks_are_from_training_alone():
    """A test text that repeats one of validation is a duplicate, and no leak."""
    profile = data_profile(["a", "b"], [0, 1], validation=(["a cat sat"], [0]), test=(["a cat sat"], [0]))
    assert profile.parts["in_train_exactly"].tolist() == [0, 0, 0]
    assert profile.duplicates[["part", "of_part", "of_text"]].values.tolist() == [["test", "validation", 0]]


def test_lines_are_plain_english(planted):
    """Sizes, classes, coverage, unseen words, leaks and suspects; nothing about parts that are not there."""
    text = str(planted)
    assert "200 training, 3 test" in text and "validation" not in text
    assert "sports" in text and "Always predicting" in text
    assert "Coverage of the training texts: 100.0% of the vocabulary, 100.0% of the running text" in text
    assert "33.3% of the test texts; with such words that have a vector: 0.0%" in text
    assert "1 exactly and 0 nearly of 3 test texts" in text
    assert "read a text before you relabel it" in text


def test_to_dict_is_plain_json(planted):
    """With nothing that only Python knows, and None for what is unknown."""
    data = planted.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["parts"]["train"]["unseen"] is None and data["parts"]["test"]["texts"] == 3
    assert data["classes"]["weather"]["train"] + data["classes"]["sports"]["train"] == 200
    assert data["suspects"][0]["part"] == "train" and data["neighbours"] == 20 and data["sampled"] is False


def test_without_vectors_lines_on_coverage_are_left_out():
    """Texts, repeated texts and labels are looked at all the same."""
    texts, labels = _texts(60, seed=2)
    labels[:3] = 1 - labels[:3]
    profile = data_profile(texts, labels, validation=(["unheardof"], [0]), neighbours=5)
    assert "overage" not in str(profile) and "vector" not in str(profile)
    assert {0, 1, 2} <= set(profile.suspects["text"])
    assert profile.parts.at["validation", "unseen"] == 1 and not profile.parts.at["validation", "judged"]


def test_large_parts_are_sampled_and_said_to_be():
    """The same sample each time; neighbours are asked for among the sample."""
    texts, labels = _texts(60, seed=3)
    labels[::6] = 1 - labels[::6]
    profile = data_profile(texts, labels, _aligned(), sample=40, neighbours=5)
    assert profile.sampled and "of a sample of 40 training texts" in str(profile)
    assert profile.parts.at["train", "texts"] == 60
    suspects = profile.suspects
    assert len(suspects) > 3 and suspects["label"].tolist() == labels[suspects["text"]].tolist()
    assert suspects["text"].isin(range(0, 60, 6)).mean() > 0.5
    assert data_profile(texts, labels, _aligned(), sample=40, neighbours=5).to_dict() == profile.to_dict()


def test_class_that_training_does_not_have_is_named():
    """And how many texts of it there are."""
    text = str(data_profile(["a", "b"], ["x", "y"], validation=(["c", "d"], ["z", "z"])))
    assert "Classes of the validation texts that training doesn't have: z (2)" in text


def test_many_classes_are_summed_up():
    """How many, the smallest and the largest."""
    labels = [*range(12), 11]
    text = str(data_profile([f"text {label}" for label in labels], labels))
    assert "12, from 0 (7.7%) to 11 (15.4%)" in text


def test_repeated_texts_with_another_label_are_counted():
    """A text twice under two labels can't be learnt."""
    text = str(data_profile(["a cat", "A  cat", "a dog"], ["x", "y", "y"]))
    assert "1 exactly, 0 nearly; 1 of them with another label" in text


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"texts": []}, "0 texts"),
        ({"texts": ["a"]}, "1 texts, 2 labels"),
        ({"texts": "ab"}, "texts must be a sequence"),
        ({"texts": ["a", 3]}, "at place 1"),
        ({"labels": [0, 0.5]}, "0.5 at place 1"),
        ({"labels": [["x"], ["y", "z"]]}, r"\['x'\] at place 0"),
        ({"labels": [0, "x"]}, "some of both"),
        ({"labels": ["x", "\ud83d"]}, "valid Unicode.* at place 1"),
        ({"validation": (["a"], ["x"])}, "some of both"),
        ({"validation": ["a", "b", "c"]}, "validation must be a pair"),
        ({"test": (["a"], [])}, "1 test texts, 0 labels"),
        ({"aligned": np.eye(2)}, "aligned must be what align returned"),
        ({"near": 0}, "near must be a number > 0"),
        ({"near": 1.5}, "1.5"),
        ({"neighbours": 0}, "neighbours must be an integer >= 1"),
        ({"sample": 0}, "sample must be an integer >= 1"),
    ],
)
def test_wrong_argument_is_named(arguments, match):
    """With the value received."""
    with pytest.raises(ArgumentError, match=match):
        data_profile(**({"texts": ["a", "b"], "labels": [0, 1]} | arguments))

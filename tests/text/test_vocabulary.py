"""Vocabulary: tokens and their ids."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras.layers import StringLookup

from embkeras import Tokenizer, Vocabulary
from embkeras.errors import ArgumentError, OutputError, VocabularyError
from embkeras.text.hashing import hash_bucket
from embkeras.text.tokenizer import TWEETS
from tests.properties import PROPERTY, TEXTS

WHOLE = Tokenizer(lowercase=False)  # a split at white space alone


@pytest.fixture
def vocabulary():
    """Padding, [UNK], and three words with counts."""
    return Vocabulary.from_texts(["a cat", "a dog"])


def test_from_texts_puts_the_most_frequent_first():
    """Equal counts keep the order of first appearance."""
    assert Vocabulary.from_texts(["b a c c", "a d c"]).tokens == ("", "[UNK]", "c", "a", "b", "d")


def test_from_texts_counts_what_is_left_out_for_unk():
    """max_tokens counts the special tokens, and the rest goes to [UNK]."""
    vocabulary = Vocabulary.from_texts(["b a c c", "a d c"], max_tokens=4)
    assert vocabulary.tokens == ("", "[UNK]", "c", "a")
    assert vocabulary.counts.tolist() == [0, 2, 3, 2]


def test_from_texts_leaves_out_rare_tokens():
    """min_count is the number of occurrences a token needs."""
    assert Vocabulary.from_texts(["b a c c", "a d c"], min_count=2).tokens == ("", "[UNK]", "c", "a")


def test_from_texts_takes_unk_in_a_text_for_the_special_token():
    """ "[UNK]" in a text is not a second token of that name."""
    vocabulary = Vocabulary.from_texts(["[UNK] a [UNK]"], tokenizer=WHOLE)
    assert (vocabulary.tokens, vocabulary.counts.tolist()) == (("", "[UNK]", "a"), [0, 2, 1])


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        (["a"], r"counts must map tokens.*\['a'\]"),
        ({"a": -1}, "counts must be 1 integers >= 0"),
        ({"a": 0.5}, "float64"),
        ({}, "No token is left of 0 tokens"),
        ({3: 1}, "3"),
    ],
)
def test_from_counts_refuses(counts, named):
    """What isn't a mapping of tokens to counts."""
    with pytest.raises(VocabularyError, match=named):
        Vocabulary.from_counts(counts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 2}, "max_tokens must be an integer >= 3. Received: 2"),
        ({"max_tokens": True}, "max_tokens must .* Received: True"),
        ({"max_tokens": "9"}, "max_tokens must .* Received: '9'"),
        ({"min_count": 0}, "min_count must be an integer >= 1. Received: 0"),
        ({"min_count": None}, "min_count must .* Received: None"),
        ({"texts": None}, "texts must be a sequence. Received: None"),
        ({"texts": b"a cat"}, "texts must be a sequence.* Received: b'a cat'"),
        ({"texts": ["a", None]}, "Text 1 .* must be a str. Received: None of type NoneType"),
    ],
)
def test_from_texts_refuses_arguments(arguments, message):
    """The message names the argument and the value."""
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_texts(**({"texts": ["a"]} | arguments))


def test_from_texts_refuses_a_single_string():
    """A string is not read as a sequence of letters."""
    with pytest.raises(VocabularyError, match=r"texts must be a sequence.* Received: 'a cat'"):
        Vocabulary.from_texts("a cat")


def test_from_texts_refuses_texts_without_a_token():
    """The message names how many tokens there were and the limit."""
    with pytest.raises(VocabularyError, match="No token is left of 2 tokens with min_count=2"):
        Vocabulary.from_texts(["a b", " "], min_count=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": []}, "at least one token. Received: an empty"),
        ({"tokens": "abc"}, "tokens must be a sequence.* Received: 'abc'"),
        ({"tokens": b"abc"}, "tokens must be a sequence.* Received: b'abc'"),
        ({"tokens": None}, "tokens must be a sequence. Received: None"),
        ({"tokens": ["", "[UNK]", 3]}, "must be strings: .* Received: 3 .* at place 2"),
        ({"tokens": [0, "[UNK]", "a"]}, "must be strings: .* Received: 0 .* at place 0"),
        ({"tokens": ["", "[UNK]", "a", "a"]}, "Token 'a' occurs twice: at ids 2 and 3"),
        ({"tokens": ["a"], "padding_id": 1}, "padding_id must be an integer from 0 to 0. Received: 1"),
        ({"tokens": ["a", "b"], "padding_id": -1}, "padding_id must be an integer from 0 to 1. Received: -1"),
        ({"tokens": ["a", "b"], "padding_id": True}, "padding_id must .* Received: True"),
        ({"tokens": ["a", "b"], "padding_id": "0"}, "padding_id must .* Received: '0'"),
        ({"tokens": ["a", "b"], "oov_ids": (2,)}, "oov_ids must be an integer from 0 to 1. Received: 2"),
        ({"tokens": ["a", "b"], "oov_ids": (False,)}, "oov_ids must .* Received: False"),
        ({"tokens": ["a", "b"], "oov_ids": 1}, "oov_ids must be a sequence. Received: 1"),
        ({"tokens": ["a", "b"], "oov_ids": None}, "oov_ids must be a sequence. Received: None"),
        ({"tokens": ["a", "b"], "oov_ids": (0,)}, r"must differ. Received: padding_id=0, oov_ids=\(0,\)"),
        ({"tokens": ["a", "b", "c"], "oov_ids": (1, 1)}, r"must differ. Received: .* oov_ids=\(1, 1\)"),
        ({"tokens": ["", "[UNK]"], "counts": [1]}, r"2 integers >= 0, .* Received: shape \(1,\)"),
        ({"tokens": ["", "[UNK]"], "counts": [0.5, 1]}, "2 integers >= 0, .* dtype float64"),
        ({"tokens": ["", "[UNK]"], "counts": [-1, 1]}, "2 integers >= 0"),
        ({"tokens": ["", "[UNK]"], "counts": {"": "many"}}, "2 integers >= 0"),
        ({"tokens": ["", "[UNK]"], "counts": [[1], [1, 2]]}, "counts must be an array"),
        ({"tokens": ["", "[UNK]", "Cat"], "counts": {"cat": 2}}, r"such as 'Cat'.*Received: \{'cat': 2\}"),
        ({"tokens": ["", "[UNK]"], "padding_side": "pre"}, "padding_side must be one of end, start. Received: 'pre'"),
        ({"tokens": ["", "[UNK]"], "drop_unknown": 1}, "drop_unknown must be True or False. Received: 1"),
        ({"tokens": ["", "[UNK]"], "drop_unknown": True}, r"not both. Received: drop_unknown=True, oov_ids=\(1,\)"),
    ],
)
def test_contradictions_are_refused(arguments, message):
    """Tokens, ids and counts that form no vocabulary; the message names the value and the place."""
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(**arguments)


def test_special_tokens_may_repeat():
    """Several OOV buckets share one token, and a word may be spelt like a special token."""
    vocabulary = Vocabulary(["", "[UNK]", "[UNK]", "a", "[UNK]"], oov_ids=(1, 2))
    assert vocabulary.token_to_id == {"a": 3, "[UNK]": 4}


def test_counts_may_be_a_mapping():
    """Tokens that the mapping lacks get 0."""
    assert Vocabulary(["", "[UNK]", "a", "b"], counts={"b": 2}).counts.tolist() == [0, 0, 0, 2]


def test_counts_are_a_read_only_copy(vocabulary):
    """What was checked cannot change afterwards."""
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.counts[0] = 1


def test_membership_is_of_ordinary_tokens(vocabulary):
    """The special tokens are not words."""
    assert "cat" in vocabulary
    assert "" not in vocabulary
    assert "[UNK]" not in vocabulary


def test_repr_names_the_special_ids(vocabulary):
    """The repr says how many tokens and which are special."""
    assert repr(vocabulary) == "Vocabulary(5 tokens, padding_id=0, oov_ids=(1,))"


def test_extended_keeps_the_ids(vocabulary):
    """New tokens come at the end, once each, with count 0."""
    extended = vocabulary.extended(["bird", "cat", "bird"])
    assert extended.tokens == (*vocabulary.tokens, "bird")
    assert extended.counts.tolist() == [*vocabulary.counts.tolist(), 0]


def test_extended_refuses_a_single_string(vocabulary):
    """A string is not read as a sequence of letters."""
    with pytest.raises(VocabularyError, match=r"tokens must be a sequence.* Received: 'bird'"):
        vocabulary.extended("bird")


@pytest.mark.parametrize("token", [3, None, b"bird", ["bird"]])
def test_extended_refuses_other_than_strings(vocabulary, token):
    """The message shows the value."""
    with pytest.raises(VocabularyError, match=r"must be (strings|a sequence).* Received: "):
        vocabulary.extended(["cow", token])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Vocabulary(["", "[UNK]", "a"], tokenizer=str.split),
        lambda: Vocabulary.from_texts(["a"], tokenizer=str.split),
        lambda: Vocabulary.from_layer(StringLookup(vocabulary=["a"]), tokenizer=str.split),
    ],
    ids=["tokens", "texts", "layer"],
)
def test_another_function_for_a_tokenizer_is_refused(make):
    """It would encode, and fail when the vocabulary is saved or exported after training; the message says what to pass."""
    with pytest.raises(
        VocabularyError, match=r"must be a Tokenizer, .* Tokenizer\(\) splits .* Received: <method 'split'"
    ):
        make()


def test_extended_adds_no_special_token(vocabulary):
    """Padding and [UNK] are there already."""
    assert vocabulary.extended(["", "[UNK]"]).tokens == vocabulary.tokens


def test_encode_gives_int64(vocabulary):
    """Known tokens get their id, the others [UNK]'s."""
    ids = vocabulary.encode("A bird, a dog")
    assert (ids.tolist(), ids.dtype) == ([2, 1, 1, 2, 4], np.int64)


def test_encode_of_an_empty_text(vocabulary):
    """A text without tokens has no ids."""
    assert vocabulary.encode(" ").shape == (0,)


def test_encode_takes_unk_for_the_special_token():
    """ "[UNK]" in a text gets the id of [UNK]."""
    assert Vocabulary(["", "[UNK]", "a"], tokenizer=WHOLE).encode("a [UNK]").tolist() == [2, 1]


def test_encode_needs_a_tokenizer():
    """Without one, only tokens can be looked up."""
    with pytest.raises(VocabularyError, match="has no tokenizer"):
        Vocabulary(["", "[UNK]", "a"]).encode("a")


def test_encode_refuses_a_token_without_an_id():
    """Without an OOV id the message names the token."""
    vocabulary = Vocabulary(["", "x", "y", "a"], oov_ids=(), tokenizer=WHOLE)
    with pytest.raises(VocabularyError, match=r"Token 'bird' is out .* has no OOV id"):
        vocabulary.encode("a bird")


def test_encode_chooses_among_several_oov_ids():
    """By the hash of the token, in the order of the ids; [UNK] in a text is hashed like any other token."""
    vocabulary = Vocabulary(["", "x", "a", "y", "z"], oov_ids=(4, 1, 3), tokenizer=WHOLE)
    words = ["bird", "oiseau", "\u9ce5", "[UNK]", *map(str, range(20))]
    assert vocabulary.encode(" ".join(words)).tolist() == [(4, 1, 3)[hash_bucket(word, 3)] for word in words]
    assert set(vocabulary.encode(" ".join(words)).tolist()) == {4, 1, 3}


def test_several_oov_ids_are_kept(tmp_path):
    """By a file, and by `extended`, whose new tokens leave the bucket for an id of their own."""
    vocabulary = Vocabulary(["", "[UNK]", "[UNK]", "[UNK]", "a"], oov_ids=(1, 2, 3), tokenizer=WHOLE)
    loaded = Vocabulary.load(vocabulary.save(tmp_path / "v.json"))
    extended = vocabulary.extended(["bird", "[UNK]"])
    assert (loaded.fingerprint, loaded.encode("a bird cow").tolist()) == (
        vocabulary.fingerprint,
        vocabulary.encode("a bird cow").tolist(),
    )
    assert (len(extended), extended.oov_ids) == (6, (1, 2, 3))
    assert extended.encode("a bird cow").tolist() == [4, 5, vocabulary.encode("cow")[0]]
    other = Vocabulary(vocabulary.tokens, oov_ids=(1, 3, 2), tokenizer=WHOLE)
    assert other.fingerprint != vocabulary.fingerprint


# Texts in which known words, [UNK] and text of any kind all occur.
WORDED = st.lists(st.one_of(st.sampled_from("abcde"), TEXTS), max_size=8).map(" ".join)


@PROPERTY
@given(st.lists(WORDED, max_size=5), st.one_of(st.none(), st.integers(1, 6)), st.sampled_from(["start", "end"]))
def test_encode_batch_is_encode_row_by_row(texts, length, truncate):
    """Each row is the text's ids, truncated at the chosen side and filled with the padding id."""
    vocabulary = Vocabulary([*"abcde", "[UNK]", ""], padding_id=6, oov_ids=(5,), tokenizer=TWEETS)
    batch = vocabulary.encode_batch(texts, length, truncate)
    rows = [vocabulary.encode(text).tolist() for text in texts]
    width = length or max([1, *map(len, rows)])
    truncated = [row[:width] if truncate == "end" else row[max(0, len(row) - width) :] for row in rows]
    assert batch.dtype == np.int64
    assert batch.shape == (len(texts), width)
    assert batch.tolist() == [row + [6] * (width - len(row)) for row in truncated]


@pytest.mark.parametrize(("truncate", "expected"), [("end", [[2, 3, 4], [5, 2, 0]]), ("start", [[3, 4, 5], [5, 2, 0]])])
def test_encode_batch_truncates_one_side(truncate, expected):
    """The first tokens stay, or the last."""
    vocabulary = Vocabulary(["", "[UNK]", *"abcd"], tokenizer=WHOLE)
    assert vocabulary.encode_batch(["a b c d", "d a"], 3, truncate).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be an integer from 1 to .* Received: 0"),
        ({"length": 40.0}, "length must .* Received: 40.0"),
        ({"length": "40"}, "length must .* Received: '40'"),
        ({"length": True}, "length must .* Received: True"),
        ({"truncate": "left"}, "truncate must be one of end, start. Received: 'left'"),
        ({"truncate": 3}, "truncate must .* Received: 3"),
    ],
)
def test_encode_batch_refuses_arguments(vocabulary, arguments, message):
    """The message names the value received."""
    with pytest.raises(ArgumentError, match=message):
        vocabulary.encode_batch(["a"], **arguments)


def test_encode_batch_needs_a_padding_id():
    """Short texts can't be padded without one; the message says how a lookup layer gets it."""
    with pytest.raises(VocabularyError, match=r'\(StringLookup: mask_token=""\)\. Received: padding_id=None'):
        Vocabulary(["[UNK]", "a"], padding_id=None, oov_ids=(0,), tokenizer=WHOLE).encode_batch(["a"])


def test_encode_batch_refuses_a_single_string(vocabulary):
    """A string is not read as a sequence of letters."""
    with pytest.raises(VocabularyError, match=r"texts must be a sequence.* Received: 'a cat'"):
        vocabulary.encode_batch("a cat")


def test_encode_batch_names_the_text(vocabulary):
    """The place of a text that is not a string."""
    with pytest.raises(VocabularyError, match=r"Text 1 .* must be a str\. Received: b'cat'"):
        vocabulary.encode_batch(["a", b"cat"])


@PROPERTY
@given(st.lists(st.text(max_size=6), unique=True, max_size=6), st.booleans())
def test_save_and_load_are_inverse(tmp_path, words, counted):
    """Tokens of any spelling, counts and tokenizer come back as they were."""
    words = [word for word in words if word not in ("", "[UNK]")]
    counts = list(range(len(words) + 2)) if counted else None
    saved = Vocabulary(["", "[UNK]", *words], counts=counts, tokenizer=TWEETS)
    loaded = Vocabulary.load(saved.save(tmp_path / "vocabulary.json"))
    assert (loaded.tokens, loaded.tokenizer, loaded.fingerprint) == (saved.tokens, TWEETS, saved.fingerprint)
    assert counts == (None if loaded.counts is None else loaded.counts.tolist())


def test_save_and_load_keep_special_ids(tmp_path):
    """No padding and several OOV ids come back."""
    saved = Vocabulary(["a", "x", "y"], padding_id=None, oov_ids=(1, 2))
    loaded = Vocabulary.load(saved.save(tmp_path / "v.json"))
    assert (loaded.padding_id, loaded.oov_ids, loaded.tokenizer) == (None, (1, 2), None)


def test_numpy_ids_are_plain_ids(tmp_path):
    """Special ids may be NumPy integers, and mean the same."""
    vocabulary = Vocabulary(["", "[UNK]", "a"], padding_id=np.int64(0), oov_ids=np.array([1]))
    assert vocabulary.fingerprint == Vocabulary(["", "[UNK]", "a"]).fingerprint
    assert Vocabulary.load(vocabulary.save(tmp_path / "v.json")).padding_id == 0


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary(["", "[UNK]", "b", "a"]),
        Vocabulary(["", "[UNK]", "a"]),
        Vocabulary(["", "[UNK]", "a", "b"], padding_id=None),
        Vocabulary(["", "[UNK]", "a", "b"], oov_ids=()),
        Vocabulary(["", "[UNK]", "a b"]),
    ],
    ids=repr,
)
def test_fingerprint_differs_where_ids_do(other):
    """Order, tokens and special ids count."""
    assert other.fingerprint != Vocabulary(["", "[UNK]", "a", "b"]).fingerprint


def test_fingerprint_leaves_counts_and_tokenizer_out():
    """The ids mean the same with other counts."""
    plain = Vocabulary(["", "[UNK]", "a"])
    assert Vocabulary(plain.tokens, counts=[0, 1, 2], tokenizer=TWEETS).fingerprint == plain.fingerprint


def saved_data(vocabulary, path):
    """What save wrote, as data."""
    return json.loads(vocabulary.save(path).read_text())


def test_load_refuses_changed_tokens(tmp_path, vocabulary):
    """The fingerprint does not match."""
    data = saved_data(vocabulary, tmp_path / "v.json")
    data["tokens"][3] = "dot"
    (tmp_path / "v.json").write_text(json.dumps(data))
    with pytest.raises(VocabularyError, match=r"v\.json' is damaged"):
        Vocabulary.load(tmp_path / "v.json")


def test_load_refuses_a_later_version(tmp_path, vocabulary):
    """The message names the version found and the one known."""
    data = saved_data(vocabulary, tmp_path / "v.json") | {"version": 2}
    (tmp_path / "v.json").write_text(json.dumps(data))
    with pytest.raises(VocabularyError, match=r"v\.json' is not .* embkeras\.vocabulary version 2, not 1"):
        Vocabulary.load(tmp_path / "v.json")


@pytest.mark.parametrize("path", [None, b"v.json", 3, "", "x" * 5000])
def test_what_is_no_path_is_refused(vocabulary, path):
    """By load and save."""
    for call in (Vocabulary.load, vocabulary.save):
        with pytest.raises(ArgumentError, match=r"path must be a path.* Received: "):
            call(path)


DAMAGED_FIELDS = [("tokens", None), ("tokens", [1]), ("tokenizer", {"rules": 3}), ("oov_ids", None), ("counts", "many")]


@pytest.mark.parametrize(("field", "value"), DAMAGED_FIELDS)
def test_load_refuses_damaged_fields(tmp_path, vocabulary, field, value):
    """The message names the file."""
    data = saved_data(vocabulary, tmp_path / "v.json") | {field: value}
    (tmp_path / "v.json").write_text(json.dumps(data))
    with pytest.raises(VocabularyError, match=r"v\.json' is not a vocabulary that embkeras can read: "):
        Vocabulary.load(tmp_path / "v.json")


@pytest.mark.parametrize(
    "contents",
    [b"", b"[]", b"{}", b"\xff\xfe", b"null", b'{"format": "embkeras.vocabulary"}', b"[" * 100_000],
    ids=range(7),
)
def test_load_refuses_other_files(tmp_path, contents):
    """The message names the file."""
    (tmp_path / "v.json").write_bytes(contents)
    with pytest.raises(VocabularyError, match=r"v\.json' is not a vocabulary that embkeras can read"):
        Vocabulary.load(tmp_path / "v.json")


def test_load_refuses_a_truncated_file(tmp_path, vocabulary):
    """A file truncated anywhere is refused."""
    whole = vocabulary.save(tmp_path / "v.json").read_bytes()
    for end in range(0, len(whole) - 1, 7):
        (tmp_path / "v.json").write_bytes(whole[:end])
        with pytest.raises(VocabularyError, match=r"v\.json'"):
            Vocabulary.load(tmp_path / "v.json")


def test_load_refuses_a_missing_file(tmp_path):
    """The message names the file and the reason."""
    with pytest.raises(VocabularyError, match=r"none\.json': No such file"):
        Vocabulary.load(tmp_path / "none.json")


def test_save_into_no_folder_is_refused(tmp_path, vocabulary):
    """The message names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write '.*file/v\.json'"):
        vocabulary.save(tmp_path / "file" / "v.json")


@pytest.mark.parametrize(("words", "said"), [(["cat", "dog", "bird"], "Id 0 .* 'cat'"), (["", "dog"], "Id 1 .* 'dog'")])
def test_plain_word_list_is_refused(words, said):
    """Its first two words would be taken for padding and [UNK], and lose their vectors."""
    with pytest.raises(VocabularyError, match=rf"{said} looks like a word\. .*padding_id=None, oov_ids=\(\)"):
        Vocabulary(words)


def test_text_with_half_a_surrogate_is_refused():
    """It can't be encoded, printed or served; the message names its position."""
    vocabulary = Vocabulary.from_texts(["good day"])
    with pytest.raises(VocabularyError, match=r"valid Unicode\. Received: '\\ud83d' at character 5"):
        vocabulary.encode("good \ud83d")


OLD = Vocabulary(["", "a", "b"], oov_ids=(), padding_side="start", drop_unknown=True, tokenizer=WHOLE)


def test_padding_and_truncation_at_the_start():
    """Both are on the side of the padding; `truncate` may differ."""
    assert OLD.encode_batch(["a b a", "b", ""], 2).tolist() == [[2, 1], [0, 2], [0, 0]]
    assert OLD.encode_batch(["a b a", "b"], 2, "end").tolist() == [[1, 2], [0, 2]]
    assert OLD.encode_batch(["a b", "b"]).tolist() == [[1, 2], [0, 2]]


def test_unknown_tokens_are_dropped():
    """They leave no id behind, and no token doesn't need one."""
    assert OLD.encode("x a y b").tolist() == [1, 2]
    assert OLD.encode("x").dtype == np.int64 and OLD.encode_batch(["x"]).tolist() == [[0]]


def test_side_and_dropped_words_are_kept(tmp_path):
    """In a file, in a vocabulary with more tokens, in the repr."""
    loaded = Vocabulary.load(OLD.save(tmp_path / "v.json"))
    for other in (loaded, OLD.extended(["c"])):
        assert (other.padding_side, other.drop_unknown, other.oov_ids) == ("start", True, ())
    assert loaded.fingerprint == OLD.fingerprint
    assert repr(OLD) == "Vocabulary(3 tokens, padding_id=0, oov_ids=(), padding_side='start', drop_unknown=True)"


def test_files_without_side_have_the_default(vocabulary, tmp_path):
    """As version 0.1 wrote them; the fingerprint is the same as then."""
    data = saved_data(vocabulary, tmp_path / "v.json")
    del data["padding_side"], data["drop_unknown"]
    (tmp_path / "v.json").write_text(json.dumps(data))
    loaded = Vocabulary.load(tmp_path / "v.json")
    assert (loaded.padding_side, loaded.drop_unknown, loaded.fingerprint) == ("end", False, vocabulary.fingerprint)


@pytest.mark.parametrize("other", [{"padding_side": "end"}, {"drop_unknown": False}])
def test_fingerprint_covers_side_and_dropped_words(other):
    """With either changed, the same text has other ids."""
    settings = {"oov_ids": (), "padding_side": "start", "drop_unknown": True} | other
    assert Vocabulary(OLD.tokens, **settings).fingerprint != OLD.fingerprint

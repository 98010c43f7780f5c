"""Vocabularies of Keras layers: the ids of the layer, unchanged."""

import keras
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras.layers import Hashing, IntegerLookup, StringLookup, TextVectorization

from embkeras import Tokenizer, Vocabulary
from embkeras.errors import VocabularyError
from tests.properties import PROPERTY, TEXTS

needs_salt = pytest.mark.skipif(
    "salt" not in StringLookup(vocabulary=["a"]).get_config(), reason="this version of Keras has no salted StringLookup"
)
STANDARDIZE = [None, "lower", "strip_punctuation", "lower_and_strip_punctuation"]
CORPUS = ["the cat the dog", "a Cat! a-b [UNK] don't", "É é ß the"]
PIECES = st.sampled_from([*" ".join(CORPUS).split(" "), " ", "\t\n", "\v", "\u00a0", "_", "\\", "]", "^", "$"])


@pytest.fixture(scope="module", params=STANDARDIZE, ids=str)
def layer(request):
    """A TextVectorization adapted to the corpus."""
    layer = TextVectorization(standardize=request.param)
    layer.adapt(CORPUS)
    return layer


@PROPERTY
@given(st.lists(st.one_of(PIECES, TEXTS)).map(" ".join))
def test_encode_equals_the_layer(layer, text):
    """Any text gets the ids that the layer returns."""
    assert Vocabulary.from_layer(layer).encode(text).tolist() == layer([text]).numpy()[0].tolist()


def test_ids_are_those_of_the_layer(layer):
    """Token i is the layer's token i, as plain str."""
    vocabulary = Vocabulary.from_layer(layer)
    assert list(vocabulary.tokens) == layer.get_vocabulary()
    assert {type(token) for token in vocabulary.tokens} == {str}
    assert (vocabulary.padding_id, vocabulary.oov_ids) == (0, (1,))


def test_encode_batch_equals_the_layer_with_a_length():
    """Truncated and padded at the end, as the layer does with output_sequence_length."""
    layer = TextVectorization(output_sequence_length=3)
    layer.adapt(CORPUS)
    texts = ["the cat the dog", "a", "bird"]
    assert Vocabulary.from_layer(layer).encode_batch(texts, 3).tolist() == layer(texts).numpy().tolist()


def test_vocabulary_of_a_reloaded_layer():
    """A layer made from its config has the same ids."""
    layer = TextVectorization(vocabulary=["dog", "cat"])
    again = TextVectorization.from_config(layer.get_config())
    assert Vocabulary.from_layer(again).fingerprint == Vocabulary.from_layer(layer).fingerprint


def test_subclass_is_read():
    """A layer derived from TextVectorization is one."""
    kind = type("OwnVectorization", (TextVectorization,), {})
    assert Vocabulary.from_layer(kind(vocabulary=["dog"])).tokens == ("", "[UNK]", "dog")


@pytest.mark.parametrize(
    "settings",
    [
        {"standardize": tf.strings.upper},
        {"split": lambda text: tf.strings.split(text, "-")},
        {"split": "character"},
        {"split": None},
        {"ngrams": 2},
        {"encoding": "latin-1"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_are_no_plain_data_give_no_tokenizer(settings):
    """Ids are still read; encode refuses rather than splitting differently from the layer."""
    vocabulary = Vocabulary.from_layer(TextVectorization(vocabulary=["dog", "cat"], **settings))
    assert vocabulary.tokens == ("", "[UNK]", "dog", "cat")
    with pytest.raises(VocabularyError, match="has no tokenizer"):
        vocabulary.encode("dog")


@pytest.mark.parametrize("oov", [0, 1, 3])
@pytest.mark.parametrize("mask", [None, ""])
def test_string_lookup_keeps_its_ids(oov, mask):
    """With and without a mask token and OOV ids, every token has the id that the layer returns."""
    layer = StringLookup(vocabulary=["dog", "cat"], num_oov_indices=oov, mask_token=mask)
    vocabulary = Vocabulary.from_layer(layer)
    assert list(vocabulary.token_to_id.values()) == layer(list(vocabulary.token_to_id)).numpy().tolist()
    assert vocabulary.padding_id == (None if mask is None else int(layer([mask])[0]))
    assert len(vocabulary.oov_ids) == oov


def test_string_lookup_sends_others_to_the_oov_ids():
    """The layer's ids for unknown words are among the OOV ids."""
    layer = StringLookup(vocabulary=["dog", "cat"], num_oov_indices=3, mask_token="")
    ids = layer([f"word{i}" for i in range(50)]).numpy()
    assert set(ids.tolist()) == set(Vocabulary.from_layer(layer).oov_ids)


@PROPERTY
@given(st.lists(st.one_of(PIECES, TEXTS)).map(" ".join))
@pytest.mark.parametrize("buckets", [1, 2, 5])
@pytest.mark.parametrize("mask", [None, ""])
def test_encode_equals_the_string_lookup(buckets, mask, text):
    """With a tokenizer, every token gets the id that the layer returns, in its bucket if it is unknown."""
    layer = StringLookup(vocabulary=["the", "É", "don't"], num_oov_indices=buckets, mask_token=mask)
    tokenizer = Tokenizer(lowercase=False)
    expected = layer(tf.constant(tokenizer(text), tf.string)).numpy().tolist()
    assert Vocabulary.from_layer(layer, tokenizer=tokenizer).encode(text).tolist() == expected


def test_string_lookup_without_oov_ids_refuses_as_the_layer_does():
    """Neither has an id for the token."""
    layer = StringLookup(vocabulary=["dog"], num_oov_indices=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="all inputs should be in vocabulary"):
        layer(["bird"])
    with pytest.raises(VocabularyError, match="'bird' is out of the vocabulary, which has no OOV id"):
        Vocabulary.from_layer(layer, tokenizer=Tokenizer()).encode("bird")


@needs_salt
def test_salted_string_lookup_gets_no_tokenizer():
    """Its hash is a different one; the ids of known tokens are still read."""
    layer = StringLookup(vocabulary=["dog"], num_oov_indices=3, salt=7)
    assert Vocabulary.from_layer(layer).oov_ids == (0, 1, 2)
    with pytest.raises(VocabularyError, match=r"salted hash .* Received: salt=\[7, 7\], num_oov_indices=3"):
        Vocabulary.from_layer(layer, tokenizer=Tokenizer())


@needs_salt
def test_salt_of_one_oov_id_does_not_matter():
    """Nothing is hashed."""
    layer = StringLookup(vocabulary=["dog"], salt=7)
    assert Vocabulary.from_layer(layer, tokenizer=Tokenizer()).encode("dog cat").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (TextVectorization(vocabulary=["dog"]), "splits texts itself: pass no tokenizer"),
        (StringLookup(vocabulary=["dog"], encoding="latin-1"), "Received: encoding='latin-1'"),
    ],
)
def test_tokenizer_that_would_give_other_ids_is_refused(layer, message):
    """A second one besides the layer's own, or one for a layer in another encoding."""
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_layer(layer, tokenizer=Tokenizer())


def test_string_lookup_with_a_mask_of_its_own():
    """The mask token is the padding, under any name."""
    vocabulary = Vocabulary.from_layer(StringLookup(vocabulary=["dog"], mask_token="<pad>"))
    assert (vocabulary.tokens, vocabulary.padding_id) == (("<pad>", "[UNK]", "dog"), 0)


@pytest.mark.parametrize("layer", [TextVectorization(), StringLookup(), IntegerLookup()], ids=["text", "lookup", "int"])
def test_layer_without_a_vocabulary_is_refused(layer):
    """The message says what to do first."""
    with pytest.raises(VocabularyError, match="no vocabulary yet: adapt it"):
        Vocabulary.from_layer(layer)


@pytest.mark.parametrize("mode", ["multi_hot", "count", "tf_idf"])
def test_layer_without_ids_is_refused(mode):
    """The message names the mode received."""
    layer = TextVectorization(output_mode=mode)
    layer.adapt(CORPUS)
    with pytest.raises(VocabularyError, match=f'output_mode="int". Received: {mode!r}'):
        Vocabulary.from_layer(layer)


@pytest.mark.parametrize("layer", [keras.layers.CategoryEncoding(4), keras.layers.Dense(1), None], ids=repr)
def test_other_layers_are_refused(layer):
    """The message names the type received."""
    with pytest.raises(VocabularyError, match=f"Received: {type(layer).__name__}"):
        Vocabulary.from_layer(layer)


def test_text_that_spells_the_mask_is_no_padding():
    """The layer reads it as padding; `encode` never returns the padding id for something in a text."""
    layer = StringLookup(vocabulary=["dog"], mask_token="<pad>")
    assert layer(["<pad>"]).numpy().tolist() == [0]
    assert Vocabulary.from_layer(layer, tokenizer=Tokenizer()).encode("<pad> dog").tolist() == [1, 2]


@pytest.mark.parametrize("oov", [0, 1, 2])
@pytest.mark.parametrize("mask", [None, 0])
def test_integer_lookup_keeps_its_ids(oov, mask):
    """Each integer, as a string, has the id that the layer returns."""
    layer = IntegerLookup(vocabulary=[30, 10, -7], num_oov_indices=oov, mask_token=mask)
    vocabulary = Vocabulary.from_layer(layer)
    assert list(vocabulary.token_to_id) == ["30", "10", "-7"] and len(vocabulary) == layer.vocabulary_size()
    assert list(vocabulary.token_to_id.values()) == layer([30, 10, -7]).numpy().tolist()
    assert (vocabulary.padding_id, len(vocabulary.oov_ids)) == (mask, oov)
    assert oov == 0 or set(layer([99, 98, 97, 96]).numpy().tolist()) <= set(vocabulary.oov_ids)


def test_integer_lookup_with_a_tokenizer():
    """One OOV id needs no hash; for several the layer's own is another one than for strings."""
    layer = IntegerLookup(vocabulary=[30, 10])
    assert (
        Vocabulary.from_layer(layer, tokenizer=Tokenizer()).encode("10 99 30").tolist()
        == layer([10, 99, 30]).numpy().tolist()
    )
    with pytest.raises(VocabularyError, match=r"an IntegerLookup chooses .* Received: num_oov_indices=2"):
        Vocabulary.from_layer(IntegerLookup(vocabulary=[30], num_oov_indices=2), tokenizer=Tokenizer())


@pytest.mark.parametrize("bins", [1, 2, 7])
@pytest.mark.parametrize("mask", [None, ""])
def test_hashing_keeps_its_bins(bins, mask):
    """All bins but that of the mask are OOV ids, and every token gets the layer's."""
    layer = Hashing(bins, mask_value=mask)
    vocabulary = Vocabulary.from_layer(layer, tokenizer=Tokenizer(lowercase=False))
    words = ["cat", "dog", "42", "\u00e9", *"abcdefgh"]
    assert vocabulary.encode(" ".join(words)).tolist() == layer(words).numpy().tolist()
    assert (len(vocabulary), vocabulary.token_to_id) == (bins, {})
    assert vocabulary.padding_id == (0 if mask is not None and bins > 1 else None)


def test_hashing_of_integers():
    """They are hashed as the strings that spell them."""
    encoded = Vocabulary.from_layer(Hashing(9), tokenizer=Tokenizer()).encode("7 -42 123456789012")
    assert encoded.tolist() == Hashing(9)([7, -42, 123456789012]).numpy().tolist()


def test_salted_hashing_gets_no_tokenizer():
    """Its hash is another one."""
    assert len(Vocabulary.from_layer(Hashing(9, salt=3))) == 9
    with pytest.raises(VocabularyError, match=r"salted hash .* Received: salt=\[3, 3\], num_bins=9"):
        Vocabulary.from_layer(Hashing(9, salt=3), tokenizer=Tokenizer())


def _old_tokenizer(texts, **settings):
    tokenizer = tf.keras.preprocessing.text.Tokenizer(**settings)
    tokenizer.fit_on_texts(texts)
    return tokenizer


_OLD_TEXTS = st.lists(
    st.text(st.sampled_from("abAB\u00e9\u00c9.,!-'_<>@\u2019\u00a0\t\n 1")).filter(str.strip), min_size=1
)


@PROPERTY
@given(
    st.lists(st.text(st.sampled_from("abAB\u00c9.-'"), max_size=3), min_size=1).map(" ".join),
    _OLD_TEXTS,
    st.integers(1, 5),
)
@pytest.mark.parametrize("num_words", [None, 3])
@pytest.mark.parametrize("oov_token", [None, "<OOV>"])
@pytest.mark.parametrize(("side", "pad"), [("start", "pre"), ("end", "post")])
def test_word_index_encodes_as_old_keras(num_words, oov_token, side, pad, corpus, texts, length):
    """The ids of `pad_sequences(tokenizer.texts_to_sequences(texts))`, whatever the settings."""
    old = _old_tokenizer(["a", corpus], num_words=num_words, oov_token=oov_token)
    vocabulary = Vocabulary.from_word_index(old.word_index, num_words=num_words, oov_token=oov_token, padding_side=side)
    expected = keras.utils.pad_sequences(old.texts_to_sequences(texts), length, padding=pad, truncating=pad)
    assert vocabulary.encode_batch(texts, length).tolist() == expected.tolist()


@pytest.mark.parametrize("word", ["'unknown'", '"unk"', "unknown", "'unk]", "[unk'", "<oov"])
def test_a_word_in_quotes_is_a_word(word):
    """The old Tokenizer keeps apostrophes; only brackets and the like on both sides mark an OOV token."""
    assert Vocabulary.from_word_index({"a": 1, word: 2}).tokens == ("", "a", word)


@pytest.mark.parametrize(
    ("word_index", "settings", "message"),
    [
        (["a"], {}, r"maps each word to its id\. Received: \['a'\]"),
        ({"a": "1"}, {}, "maps each word to its id. Received: {'a': '1'}"),
        ({"a": True}, {}, "Received: {'a': True}"),
        ({1: 1}, {}, r"must be strings: .* Received: 1 \(int\)"),
        ({}, {}, "no word with an id of 1"),
        ({"a": 1, "b": 3}, {}, "no word with id 2, and 'b' with id 3"),
        ({"a": 4, "b": 5}, {}, "no word with id 1, and 'b' with id 5"),
        ({"a": 1, "b": 1}, {}, "id 1 for 'b', as 'a' has"),
        ({"a": 1, "b": -1}, {}, "Received: id -1 for 'b'"),
        ({"the": 0, "cat": 1}, {}, "id 0 for 'the', and id 0 is the padding"),
        ({"<OOV>": 1, "a": 2}, {}, r"'<OOV>' \(id 1\), which looks like an OOV token: pass oov_token='<OOV>'"),
        ({"[unk]": 1, "a": 2}, {}, r"pass oov_token='\[unk\]'"),
        ({"a": 1}, {"oov_token": "<OOV>"}, "oov_token must be a word of word_index. Received: '<OOV>'"),
        ({"a": 1, "<OOV>": 2}, {"oov_token": "<OOV>", "num_words": 2}, "Received: '<OOV>'"),
        ({"a": 1}, {"oov_token": 1}, "oov_token must .* Received: 1"),
        ({"a": 1}, {"num_words": 1}, "num_words must be an integer >= 2. Received: 1"),
        ({"a": 1}, {"padding_side": "pre"}, "padding_side must be one of end, start. Received: 'pre'"),
    ],
)
def test_word_index_that_would_give_other_ids_is_refused(word_index, settings, message):
    """The message names the word and its id."""
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_word_index(word_index, **settings)


def test_word_index_may_name_the_special_ids():
    """As for the ids of a data set whose words begin at 3."""
    vocabulary = Vocabulary.from_word_index({"<PAD>": 0, "<START>": 1, "<UNK>": 2, "the": 3}, oov_token="<UNK>")
    assert (vocabulary.padding_id, vocabulary.oov_ids, vocabulary.drop_unknown) == (0, (2,), False)
    assert vocabulary.encode_batch(["the cat"], 3).tolist() == [[0, 3, 2]]

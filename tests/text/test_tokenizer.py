"""The tokenizer splits as TensorFlow's own operations do."""

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from embkeras import Tokenizer
from embkeras.errors import VocabularyError
from embkeras.text.tokenizer import TWEETS, WHOLE, WORDS
from tests.properties import PROPERTY, TEXTS

# fmt: off
PIECES = [
    "https://t.co/aB1", "www.x.org", "bit.ly/a", "@User", "#Win", "&lt;3", "&amp;lt;", "&#039;", "&nbsp;", "don't",
    "CAN'T", "it's", "we're", "'tis", "3.5", "1,000", "u.s.", "U.S", "yes!no", "a,b", "great:)", ":-(", "((x))",
    '"quoted"', "‘x’", "“y”", "—", "–", "…", "...", "--", "----", "e-mail", "é", "É", "ß", "İ", "[UNK]", "_a_", "$5",
    "?", "!", ";", ")", "(", "]", "[", "~", "*", "'", ".", "n't", "rock'n'roll", "o'clock's",
    # White space that only str.split() knows, and NUL.
    "\u00a0", "\u0085", "\u2028", "\u2003", "\0",
]
# fmt: on
# Pieces that the rules know, glued together or apart, with any text between.
TWEETLIKE = st.lists(st.one_of(st.sampled_from([*PIECES, " ", "\t", "\n", "\r", "\f", "\v", ""]), TEXTS)).map("".join)


def tokens_of_tensorflow(tokenizer: Tokenizer, text: str) -> list[str]:
    """The tokens by tf.strings alone."""
    value = tf.constant(text)
    value = tf.strings.lower(value) if tokenizer.lowercase else value
    value = tf.strings.join([" ", value, " "])
    for pattern, rewrite in tokenizer.rules:
        value = tf.strings.regex_replace(value, pattern, rewrite)
    return [token.decode() for token in tf.strings.split(value).numpy()]


@PROPERTY
@given(TWEETLIKE)
def test_words_equals_tensorflow(text):
    """WORDS returns the same tokens in Python and in RE2."""
    assert WORDS(text) == tokens_of_tensorflow(WORDS, text)


@PROPERTY
@given(TWEETLIKE)
def test_tweets_equals_tensorflow(text):
    """TWEETS returns the same tokens in Python and in RE2."""
    assert TWEETS(text) == tokens_of_tensorflow(TWEETS, text)


RULES = [
    (r"\d+", "0"),
    (r"\b(\w)\w*", r"<\1>"),
    (r"[^a-c]{2}", " x "),
    (r"(a|b)?c", r"\1-"),
    (r"\W+", " "),
    (r"^ a.", ""),
]


@PROPERTY
@given(TEXTS, st.lists(st.sampled_from(RULES), max_size=3), st.booleans())
def test_own_rules_equal_tensorflow(text, rules, lowercase):
    """So do custom rules within the common subset."""
    tokenizer = Tokenizer(rules=rules, lowercase=lowercase)
    assert tokenizer(text) == tokens_of_tensorflow(tokenizer, text)


@PROPERTY
@given(TEXTS)
def test_lowercase_equals_tensorflow(text):
    """Only A to Z are lowered."""
    assert Tokenizer()(text) == Tokenizer(lowercase=False)(tf.strings.lower(text).numpy().decode())


@PROPERTY
@given(TWEETLIKE)
def test_tokens_hold_no_white_space(text):
    """No token is empty or holds ASCII white space."""
    assert all(token and not set(token) & set(" \t\n\r\f\v") for token in TWEETS(text))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I don't, it's 3.5!", ["i", "do", "n't", ",", "it", "'s", "3.5", "!"]),
        ("yes!no a,b 1,000 u.s", ["yes", "!", "no", "a", ",", "b", "1,000", "u.s"]),
        ("great:) “so”", ["great", ":)", '"', "so", '"']),
        ("wait… what—now", ["wait", "...", "what", "-", "now"]),
        ("", []),
    ],
)
def test_words_cuts_as_glove_does(text, tokens):
    """Contractions, numbers and runs of marks are split as in GloVe's corpora."""
    assert WORDS(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("@You see https://t.co/x1 #Win", ["<user>", "see", "<url>", "#win"]),
        ("I &lt;3 you &amp; bit.ly/abc", ["i", "<3", "you", "&", "<url>"]),
        ("&amp;lt; stays text", ["&lt", ";", "stays", "text"]),
    ],
)
def test_tweets_undoes_entities_and_names(text, tokens):
    """Entities are undone once; URLs and @names become placeholders."""
    assert TWEETS(text) == tokens


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\s", r"a\S", "a$", "(?i)a", "(?=a)b", "(?<!a)b", "(?P<n>a)", r"(a)\1", "a++", "a{,3}", r"a\Z", r"\u0041"),
        *("a{1001}", "a{1,20000}", "a{2000,}"),
    ],
)
def test_pattern_outside_the_common_subset_is_refused(pattern):
    """The message names the rule in which the engines differ."""
    with pytest.raises(VocabularyError, match="must mean the same") as raised:
        Tokenizer(rules=[(pattern, "x")])
    assert repr(pattern) in str(raised.value)


def test_a_thousand_repetitions_are_taken():
    """RE2 takes no more."""
    assert Tokenizer(rules=[("a{1000}", "x"), ("b{2,1000}", "y")])("a" * 1000 + " bbb") == ["x", "y"]


def test_posix_class_is_refused():
    """RE2 reads [[:alpha:]] as a class, Python as a set of marks."""
    with pytest.raises(VocabularyError, match=r"must mean the same .*\[:.*\[\[:alpha:\]\]"):
        Tokenizer(rules=[("[[:alpha:]]+", "x")])


@pytest.mark.parametrize("rewrite", [r"\g<1>", r"\n", r"\0", r"\10", "a\\"])
def test_rewrite_outside_the_common_subset_is_refused(rewrite):
    """The message names the rewrite."""
    with pytest.raises(VocabularyError, match="must mean the same") as raised:
        Tokenizer(rules=[("(a)", rewrite)])
    assert repr(rewrite) in str(raised.value)


@pytest.mark.parametrize("rule", [("(a", "x"), ("a", r"\1"), ("[z-a]", "x"), ("a**", "x")])
def test_rule_that_does_not_compile_is_refused(rule):
    """It is refused when the tokenizer is made, not at the first text."""
    with pytest.raises(VocabularyError, match="does not compile") as raised:
        Tokenizer(rules=[rule])
    assert repr(rule[0]) in str(raised.value)


@pytest.mark.parametrize("pattern", ["a*", "", r"\b", "(?:z|)"])
def test_pattern_that_matches_nothing_is_refused(pattern):
    """The engines replace empty matches differently."""
    with pytest.raises(VocabularyError, match="at least one character") as raised:
        Tokenizer(rules=[(pattern, "x")])
    assert repr(pattern) in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": None}, "rules must be pairs of strings .* Received: None"),
        ({"rules": "ab"}, "rules must .* Received: 'ab'"),
        ({"rules": [("a",)]}, r"rules must .* Received: \[\('a',\)\]"),
        ({"rules": ["ab"]}, r"rules must .* Received: \['ab'\]"),
        ({"rules": [("a", 1)]}, r"rules must .* Received: \[\('a', 1\)\]"),
        ({"lowercase": "yes"}, "lowercase must be True or False. Received: 'yes'"),
        ({"lowercase": 1}, "lowercase must .* Received: 1"),
        ({"lowercase": "Unicode"}, "lowercase must .* Received: 'Unicode'"),
        ({"split": 0}, "split must be True or False. Received: 0"),
        ({"split": False, "rules": [("a", "b")]}, r"split=False has no rules. Received: \(\('a', 'b'\),\)"),
    ],
)
def test_settings_of_other_types_are_refused(arguments, message):
    """The message names the setting and the value."""
    with pytest.raises(VocabularyError, match=message):
        Tokenizer(**arguments)


_CASED = "AZ\u00c9\u00d1\u0130\u01c5\u0391\u03a3\u042f\u0531\u1e9e\u212a\uff21\U00010400 a\u00df."  # with both sigmas


@PROPERTY
@given(st.text(st.sampled_from(_CASED)))
def test_unicode_lowercase_equals_tensorflow(text):
    """Letters of every alphabet, those with two lower forms among them."""
    tokenizer = Tokenizer(lowercase="unicode")
    assert tokenizer(text) == text.lower().split()
    lowered = tf.strings.lower(tf.constant(text, tf.string), encoding="utf-8").numpy().decode()
    assert lowered.split() == tokenizer(text)
    assert Tokenizer.from_dict(tokenizer.to_dict()) == tokenizer


@pytest.mark.parametrize("data", [None, {}, {"rules": []}, {"rules": 3, "lowercase": True}])
def test_other_data_are_refused(data):
    """What `to_dict` did not write."""
    with pytest.raises(VocabularyError, match="Received: "):
        Tokenizer.from_dict(data)


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"]])
def test_other_than_text_is_refused(text):
    """The message names the type received."""
    with pytest.raises(VocabularyError, match=f"must be a str. Received: .* of type {type(text).__name__}"):
        WORDS(text)


@pytest.mark.parametrize("tokenizer", [WORDS, TWEETS, WHOLE, Tokenizer(lowercase=False)])
def test_dict_gives_the_tokenizer_back(tokenizer):
    """to_dict and from_dict are inverse."""
    assert Tokenizer.from_dict(tokenizer.to_dict()) == tokenizer


def test_a_text_that_is_not_split_is_one_token():
    """As it is written, spaces and all; lowered if asked; without text there is no token."""
    assert WHOLE(" New York, NY\t") == [" New York, NY\t"] and WHOLE("") == []
    assert Tokenizer(split=False)("New York") == ["new york"]

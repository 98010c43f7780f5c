"""Questions become windows over their contexts, and scores of places become answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embkeras import SpanAnswer, SpanExample, Vocabulary, decode_spans, encode_spans
from embkeras.errors import ArgumentError, EmbkerasWarning, VocabularyError
from tests.encoders.folders import PIECES, write_tokenizer

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
CLS, SEP, CAT, DOG, A, UNKNOWN = 2, 3, 24, 25, 4, 1
LONG = SpanExample("cat", "dog a b c d e f g h", [("d", 10)])  # 9 pieces


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Word pieces."""
    return Vocabulary.from_tokenizer(write_tokenizer(tmp_path_factory.mktemp("spans") / "tokenizer.json"))


def answered(windows, **given_scores):
    """Answers where the probabilities of (window, place) are given, and all others are 0."""
    scores = {name: np.zeros(windows.ids.shape) for name in ("start", "end")}
    for name, values in given_scores.items():
        for place, value in values.items():
            scores[name][place] = value
    return scores


def test_one_window(vocabulary):
    """Ids as `encode_pairs` makes them; places of the context's characters; the first answer as labels."""
    example = SpanExample("Cat?", "A cab,  dog", [("cab", 2), ("dog", 8)])
    windows = encode_spans(vocabulary, [example], 20)
    np.testing.assert_array_equal(windows.ids, vocabulary.encode_pairs(["Cat?"], ["A cab,  dog"]))
    own = windows.offsets[0, 4:10].tolist()
    assert own == [[0, 1], [2, 3], [3, 4], [4, 5], [5, 6], [8, 11]]
    assert (windows.offsets[0, [0, 1, 2, 3, 10]] == -1).all()
    assert (windows.start.tolist(), windows.end.tolist(), windows.lost) == ([5], [7], ())
    assert windows.labels["start"] is windows.start and windows.labels["end"] is windows.end and len(windows) == 1
    inside = encode_spans(vocabulary, [SpanExample("cat", "cab", [("a", 1)])], 20)
    assert inside.start.tolist() == inside.end.tolist() == [4]


def test_windows_over_a_long_context(vocabulary):
    """Each begins a stride behind the last, with the question in front; labels are 0 where the answer isn't whole."""
    windows = encode_spans(vocabulary, [LONG, SpanExample("a", "dog")], 8, stride=3)
    assert windows.example.tolist() == [0, 0, 0, 1]
    letters = list(range(A, A + 8))
    assert windows.ids.tolist() == [
        [CLS, CAT, SEP, DOG, *letters[:3], SEP],
        [CLS, CAT, SEP, *letters[2:6], SEP],
        [CLS, CAT, SEP, *letters[5:], SEP, 0],
        [CLS, A, SEP, DOG, SEP, 0, 0, 0],
    ]
    assert windows.start.tolist() == windows.end.tolist() == [0, 4, 0, 0]
    assert windows.offsets[1, 4].tolist() == [10, 11] and windows.lost == ()
    assert encode_spans(vocabulary, [LONG], 8).ids[:, 3].tolist() == [DOG, A + 1, A + 3, A + 5]  # half of the room


def test_an_answer_that_no_window_contains(vocabulary):
    """It is listed, with a warning, and trained as no answer."""
    split = SpanExample("cat", LONG.context, [("a b c d", 4)])
    with pytest.warns(EmbkerasWarning, match=r"1 of 3 .*8 pieces.*example 1: 'a b c d'"):
        windows = encode_spans(vocabulary, [LONG, split, SpanExample("cat", "dog")], 8, stride=4)
    assert windows.lost == (1,)
    assert windows.start[windows.example == 1].tolist() == [0, 0, 0]
    assert encode_spans(vocabulary, [split], 8, stride=1).lost == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(5, 20), st.data())
def test_every_piece_is_in_a_window(vocabulary, pieces, length, data):
    """And no window is wider than asked, whatever the stride."""
    room = length - 4
    stride = data.draw(st.one_of(st.none(), st.integers(1, room)))
    windows = encode_spans(vocabulary, [SpanExample("cat", " ".join("dog" for _ in range(pieces)))], length, stride)
    begins = {begin for begin, _ in windows.offsets.reshape(-1, 2).tolist()} - {-1}
    assert begins == set(range(0, 4 * pieces, 4)) and windows.ids.shape[1] <= length
    assert ((windows.ids == DOG) == (windows.offsets[..., 0] >= 0)).all()


def test_special_pieces_in_texts(vocabulary):
    """Those of a text are unknown pieces: they move no border, and can be part of an answer. White space alone can't."""
    windows = encode_spans(vocabulary, [SpanExample("[SEP] cat", "a [SEP] b [PAD][CLS]")], 20)
    assert windows.ids[0].tolist() == [CLS, UNKNOWN, CAT, SEP, A, UNKNOWN, A + 1, UNKNOWN, UNKNOWN, SEP]
    assert windows.offsets[0, 5].tolist() == [2, 7]


def test_a_long_question(vocabulary):
    """Its end is cut."""
    windows = encode_spans(vocabulary, [SpanExample("cat a b c", "dog")], 20, question_length=2)
    assert windows.ids.tolist() == [[CLS, CAT, A, SEP, DOG, SEP]]


def test_trimmed_and_padded_encoders(tmp_path):
    """Ids are those of the vocabulary, not of the tokenizer's file; no example makes no row."""
    vocabulary = Vocabulary.from_tokenizer(write_tokenizer(tmp_path / "tokenizer.json", [*PIECES, "bird"]))
    fewer = vocabulary.trimmed(["bird"])
    windows = encode_spans(fewer, [SpanExample("bird", "bird")], 9)
    assert [fewer.tokens[id_] for id_ in windows.ids[0]] == ["[CLS]", "bird", "[SEP]", "bird", "[SEP]"]
    nothing = encode_spans(fewer, [])
    assert (nothing.ids.shape, nothing.start.shape) == ((0, 1), (0,))
    assert decode_spans(answered(nothing), nothing) == []


def test_the_best_span(vocabulary):
    """The product decides, over all windows; the place is in the context's characters."""
    windows = encode_spans(vocabulary, [LONG], 8, stride=3)
    found = answered(
        windows, start={(0, 3): 0.5, (1, 4): 0.75, (0, 0): 0.5}, end={(0, 3): 0.5, (1, 5): 0.5, (0, 0): 0.5}
    )
    assert decode_spans(found, windows) == [SpanAnswer("d e", 0.375, 10, 13, no_answer=0.0)]
    found["start"][1:, 0], found["end"][1:, 0] = [0.5, 1], [0.5, 1]
    (answer,) = decode_spans(found, windows)
    assert answer.no_answer == 0.25 / (0.25 + 0.375)


def test_the_end_is_not_before_the_start(vocabulary):
    """Nor farther than the limit."""
    windows = encode_spans(vocabulary, [LONG], 20)
    found = answered(windows, start={(0, 6): 1, (0, 3): 0.25}, end={(0, 4): 1, (0, 7): 0.125})
    assert decode_spans(found, windows)[0].text == "dog a"
    assert decode_spans(found, windows, max_pieces=1)[0].text == ""
    found["end"][0, 6] = 0.0625
    assert decode_spans(found, windows, max_pieces=1)[0] == SpanAnswer("c", 0.0625, 8, 9)
    assert decode_spans(found, windows, max_pieces=2)[0].text == "dog a"


def test_question_special_pieces_and_padding_are_never_chosen(vocabulary):
    """Whatever their scores."""
    windows = encode_spans(vocabulary, [LONG, SpanExample("cat", "dog")], 20)
    scores = {name: np.ones(windows.ids.shape) for name in ("start", "end")}
    scores["start"][windows.offsets[..., 0] >= 0] = scores["end"][windows.offsets[..., 0] >= 0] = 1e-6
    answers = decode_spans(scores, windows)
    assert [answer.text for answer in answers] == ["dog", "dog"]
    assert [answer.score for answer in answers] == [1e-12, 1e-12]


def test_no_answer(vocabulary):
    """Above the threshold the text is empty; without a threshold it is empty only where no span is possible."""
    windows = encode_spans(vocabulary, [SpanExample("cat", "dog")], 20)
    found = answered(windows, start={(0, 0): 0.5, (0, 3): 0.5}, end={(0, 0): 0.75, (0, 3): 0.25})
    assert decode_spans(found, windows) == [SpanAnswer("dog", 0.125, 0, 3, 0.75)]
    assert decode_spans(found, windows, threshold=0.75)[0].text == "dog"
    assert decode_spans(found, windows, threshold=0.7) == [SpanAnswer("", 0.375, 0, 0, 0.75)]
    empty = encode_spans(vocabulary, [SpanExample("cat", " ")], 20)
    assert decode_spans(answered(empty, start={(0, 0): 1}, end={(0, 0): 1}), empty) == [SpanAnswer("", 1.0, 0, 0, 1.0)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_no_span_is_better(vocabulary, seed, most):
    """Than the one found, tried one by one."""
    windows = encode_spans(vocabulary, [LONG], 8, stride=2)
    rng = np.random.default_rng(seed)
    scores = {name: rng.choice([0, 0.25, 0.5, 1], windows.ids.shape) for name in ("start", "end")}
    tried = [
        (scores["start"][row, first] * scores["end"][row, last], windows.offsets[row, [first, last]])
        for row in range(len(windows))
        for first in range(3, 8)
        for last in range(first, min(8, first + most))
        if windows.offsets[row, first, 0] >= 0 and windows.offsets[row, last, 0] >= 0
    ]
    (answer,) = decode_spans(scores, windows, max_pieces=most)
    best = max(score for score, _ in tried)
    if best > 0:
        places = [(begin, stop) for score, ((begin, _), (_, stop)) in tried if score == best]
        assert answer.score == best and (answer.start, answer.end) in places
        assert answer.text == LONG.context[answer.start : answer.end]


def test_white_space_around_an_answer(tmp_path):
    """Byte-level pieces begin with their space: the answer doesn't."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.BPE({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "\u0120": 5, "b": 6, "\u0120b": 7},
                                [("\u0120", "b")], unk_token="<unk>"))  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
    )
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    made.save(str(tmp_path / "tokenizer.json"))
    windows = encode_spans(Vocabulary.from_tokenizer(tmp_path), [SpanExample("a", "a b  b", [("b", 2)])], 20)
    assert windows.ids.tolist() == [[0, 4, 2, 2, 4, 7, 5, 7, 2]]
    assert windows.start.tolist() == windows.end.tolist() == [5] and windows.offsets[0, 6].tolist() == [-1, -1]
    found = answered(windows, start={(0, 5): 1, (0, 6): 1}, end={(0, 5): 1, (0, 6): 1})
    assert decode_spans(found, windows) == [SpanAnswer("b", 1.0, 2, 3)]


def test_examples_are_checked():
    """An answer is where it says; the message says where it is instead."""
    for arguments, match in (
        (("q", "Ann slept.", [("Bob", 0)]), r"'Bob' at character 0.*'Ann'"),
        (("q", "Ann slept.", [("slept", 5)]), "It is at 4"),
        (("q", "Ann slept.", [("", 0)]), "''"),
        (("q", "Ann", [("Ann", -1)]), "-1"),
        (("q", "Ann", ["Ann"]), "'Ann' at 0"),
        ((3, "Ann"), "question .*3"),
        (("q", "\ud83d"), "context.*U\\+D83D|context"),
        (("q", "Ann", 3), "answers .*3"),
    ):
        with pytest.raises(ArgumentError, match=match):
            SpanExample(*arguments)


def test_arguments_are_checked(vocabulary, tmp_path):
    """With the place of the example, and the room that a window has."""
    for arguments, match in (
        (([LONG], 4), r"question's 1 pieces and 3 special ones.*length=4 for example 0"),
        (([LONG], 8, 5), r"room for 4 .*stride=5"),
        (([LONG], 8, 0), "stride .*0"),
        ((["cat"],), "'cat' at 0"),
        ((3,), "examples .*3"),
    ):
        with pytest.raises(ArgumentError, match=match):
            encode_spans(vocabulary, *arguments)
    for other in (None, Vocabulary(["", "[UNK]"])):
        with pytest.raises(VocabularyError, match="from_tokenizer"):
            encode_spans(other, [LONG])
    without = write_tokenizer(tmp_path / "tokenizer.json", post_processor=None)
    with pytest.raises(VocabularyError, match=r"\[\] in front and \[\] between"):
        encode_spans(Vocabulary.from_tokenizer(without), [LONG])


def test_scores_are_checked(vocabulary):
    """Logits aren't probabilities; each piece has one."""
    windows = encode_spans(vocabulary, [LONG], 20)
    good = np.zeros(windows.ids.shape)
    for scores, match in (
        ({"start": good}, "start and end"),
        (good, "start and end"),
        ({"start": good, "end": good[:, 1:]}, r"end .*\(1, 12\)"),
        ({"start": good - 3, "end": good}, r"start .*-3.* window 0"),
        ({"start": good, "end": good + np.nan}, "end .*nan"),
        ({"start": "x", "end": good}, "start"),
    ):
        with pytest.raises(ArgumentError, match=match):
            decode_spans(scores, windows)
    right = {"start": good, "end": good}
    for arguments, match in (({"max_pieces": 0}, "max_pieces .*0"), ({"threshold": 2}, "threshold .*2")):
        with pytest.raises(ArgumentError, match=match):
            decode_spans(right, windows, **arguments)
    with pytest.raises(ArgumentError, match="encode_spans"):
        decode_spans(right, good)

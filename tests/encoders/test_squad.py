"""SQuAD's files are read and checked, and its scores are those of its own evaluation."""

import json

import pytest

from embkeras import SpanAnswer, SpanExample, load_squad, squad_scores
from embkeras.encoders.squad import exact_match, f1, normalized_answer
from embkeras.errors import ArgumentError, DataError

CONTEXT = "Anna lives in Graz. Boris, the baker, lives in New York."


def asked(key="1", answers=(("Graz", 14),), **more):
    """A question in the format of SQuAD."""
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": key, "question": "Where does Anna live?", "answers": listed, **more}


def file_with(folder, *questions, **more):
    """A file of these questions about one context."""
    path = folder / "squad.json"
    paragraphs = [{"context": CONTEXT, "qas": list(questions)}]
    path.write_text(
        json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}], **more}), "utf-8"
    )
    return path


def test_files_of_both_versions(tmp_path):
    """With several answers, and without one; what version 2 has besides is left."""
    impossible = asked("2", (), is_impossible=True, plausible_answers=[{"text": "Graz", "answer_start": 14}])
    examples = load_squad(file_with(tmp_path, asked(answers=[("Graz", 14), ("in Graz", 11)]), impossible))
    assert examples == [
        SpanExample("Where does Anna live?", CONTEXT, [("Graz", 14), ("in Graz", 11)], "1"),
        SpanExample("Where does Anna live?", CONTEXT, [], "2"),
    ]


def test_wrong_files(tmp_path):
    """Refused with the place in the file; answers that aren't where they say are counted."""
    for questions, match in (
        ([asked(), asked()], r"qas\[1\] .*'1'.* same id"),
        ([asked(answers=[("Graz", 3)]), asked("2", [("x", 0)])], r"(?s)2 questions.*qas\[0\] .*'1'.*It is at 14.*'2'"),
        ([asked(is_impossible=True)], r"qas\[0\] .*is_impossible"),
        ([{"id": "1", "question": "q"}], r"qas\[0\] .*'answers', a list"),
        ([asked() | {"id": 3}], r"'id', a str.* 3"),
        ([3], r"qas\[0\] must be an object.* 3"),
        ([], "no questions"),
    ):
        with pytest.raises(DataError, match=match):
            load_squad(file_with(tmp_path, *questions))
    path = tmp_path / "squad.json"
    for text, match in (
        ("{", "not JSON"),
        ("[]", r"'data', a list.* \[\]"),
        ('{"data": [{}]}', r"data\[0\] .*paragraphs"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=match):
            load_squad(path)
    with pytest.raises(DataError, match=r"none\.json"):
        load_squad(tmp_path / "none.json")
    with pytest.raises(ArgumentError, match=r"path .*3"):
        load_squad(3)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel  Tower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("theory of a-b", "theory of ab"),
        ("U.S.", "us"),
        ("the-end", "theend"),
        ("\u201cthe\u201d caf\u00e9", "\u201c \u201d caf\u00e9"),
        ("x\u00a0y", "x y"),
        ("A.", ""),
    ],
)
def test_normalisation(text, normal):
    """What SQuAD's evaluation makes of these."""
    assert normalized_answer(text) == normal


def test_two_answers():
    """Words that both have count, each as often as in both; without words the versions differ."""
    assert (exact_match("the cat", "Cat!"), exact_match("cats", "cat")) == (1, 0)
    assert f1("new new york", "New York City") == pytest.approx(2 / 3)
    assert (f1("x", "y"), f1("the", "a"), f1("the", "a", "2.0"), f1("", "x", "2.0")) == (0, 0, 1, 0)


def test_scores_of_version_1():
    """The best of the known answers counts."""
    examples = [
        SpanExample("q", CONTEXT, [("Graz", 14), ("in Graz", 11)]),
        SpanExample("q", CONTEXT, [("the baker", 27)]),
        SpanExample("q", CONTEXT, [("New York", 47)]),
    ]
    scores = squad_scores(examples, ["In Graz.", "a baker", "York"])
    assert scores == {"exact_match": pytest.approx(200 / 3), "f1": pytest.approx(800 / 9), "total": 3}


def test_scores_of_version_2():
    """Figures of SQuAD's own script for these answers: groups, a threshold, and the best one."""
    graz, nothing = SpanExample("q", CONTEXT, [("Graz", 14)]), SpanExample("q", CONTEXT)
    examples = [graz, graz, graz, nothing, nothing]
    texts, doubts = ["Graz", "in Graz", "", "Boris", ""], [0.1, 0.6, 0.7, 0.8, 0.3]
    answers = [SpanAnswer(text, 0, 0, 0, doubt) for text, doubt in zip(texts, doubts, strict=True)]
    scores = squad_scores(examples, answers)
    assert scores == {
        "exact_match": 40.0,
        "f1": pytest.approx(160 / 3),
        "total": 5,
        "has_answer_exact_match": pytest.approx(100 / 3),
        "has_answer_f1": pytest.approx(500 / 9),
        "has_answer_total": 3,
        "no_answer_exact_match": 50.0,
        "no_answer_f1": 50.0,
        "no_answer_total": 2,
        "best_exact_match": 60.0,
        "best_exact_match_threshold": 0.1,
        "best_f1": pytest.approx(220 / 3),
        "best_f1_threshold": 0.6,
    }
    cut = squad_scores(examples, answers, threshold=0.6)
    assert (cut["exact_match"], cut["f1"], cut["no_answer_f1"]) == (60.0, pytest.approx(220 / 3), 100.0)
    assert "best_f1" not in squad_scores(examples, texts)


def test_rules_can_be_chosen():
    """By the rules of version 2, an answer without words counts as no answer."""
    examples = [SpanExample("q", CONTEXT, [("the", 27)])]
    assert squad_scores(examples, [""])["f1"] == 0
    assert squad_scores(examples, [""], rules="2.0")["f1"] == 100
    examples = [SpanExample("q", CONTEXT, [("the", 27), ("Graz", 14)])]
    assert squad_scores(examples, [""], rules="2.0")["f1"] == 0


def test_scores_are_checked():
    """One answer for each example."""
    example = SpanExample("q", CONTEXT, [("Graz", 14)])
    for arguments, match in (
        (([example], []), "0 for 1"),
        (([], []), "0 for 0"),
        (([example], [3]), "3 at place 0"),
        ((["q"], ["x"]), "'q' and 'x'"),
    ):
        with pytest.raises(ArgumentError, match=match):
            squad_scores(*arguments)
    for named, match in (({"rules": "3"}, "rules .*'3'"), ({"threshold": 2}, "threshold .*2")):
        with pytest.raises(ArgumentError, match=match):
            squad_scores([example], ["x"], **named)
    with pytest.raises(ArgumentError, match=r"1\.1.*'q'"):
        squad_scores([SpanExample("q", "c")], ["x"], rules="1.1")

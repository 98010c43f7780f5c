"""SQuAD (Rajpurkar et al. 2016, 2018): reading its files, and its scores. Without TensorFlow."""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embkeras._checks import number, one_of, sequence, shown
from embkeras._checks import path as checked_path
from embkeras.encoders.spans import SpanAnswer, SpanExample
from embkeras.errors import ArgumentError, DataError

_ARTICLES = re.compile(r"\b(?:an|a|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_RULES = ("1.1", "2.0")
_QUOTED = 3  # errors of a file that a message quotes


def load_squad(path: str | os.PathLike[str]) -> list[SpanExample]:
    """The questions of a file in the format of SQuAD 1.1 or 2.0, checked.

    Args:
        path: a JSON file, such as train-v1.1.json or dev-v2.0.json.

    Returns:
        One example for each question, in the order of the file.

    Raises:
        ArgumentError: `path` is not a path.
        DataError: no such file, another format, two questions with one id, or answers that aren't in their contexts where
            the file says. It names up to three of these, and how many there are.

    Examples:
        >>> examples = load_squad("dev-v2.0.json")  # doctest: +SKIP
        >>> examples[0].question, examples[0].answers[0]  # doctest: +SKIP
        ('In what country is Normandy located?', ('France', 159))
    """
    path = checked_path(path, "path")
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}.") from None
    examples, wrong, keys = [], [], set()
    for place, context, asked in _questions(data, path):
        key = _get(asked, "id", str, place, path)
        where = f"{place} (id {key!r})"
        if key in keys:
            raise DataError(f"{str(path)!r}, {where}: another question has the same id.")
        keys.add(key)
        listed = _get(asked, "answers", list, where, path)
        answers = [
            (_get(each, "text", str, f"{where}, answers[{number_}]", path), each.get("answer_start"))
            for number_, each in enumerate(listed)
        ]
        if asked.get("is_impossible") and answers:
            raise DataError(f"{str(path)!r}, {where}: is_impossible is true, and there are answers.")
        try:
            examples.append(SpanExample(_get(asked, "question", str, where, path), context, answers, key))
        except ArgumentError as error:
            wrong.append(f"{where}: {error}")
    if wrong:
        listed = "\n".join(wrong[:_QUOTED])
        raise DataError(f"{str(path)!r} has {len(wrong)} questions that can't be used:\n{listed}")
    if not examples:
        raise DataError(f"{str(path)!r} has no questions.")
    return examples


def _questions(data: Any, path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, context and data of each question."""
    for number_, article in enumerate(_get(data, "data", list, "the file", path)):
        of_article = f"data[{number_}]"
        for other, paragraph in enumerate(_get(article, "paragraphs", list, of_article, path)):
            of_paragraph = f"{of_article}.paragraphs[{other}]"
            context = _get(paragraph, "context", str, of_paragraph, path)
            for last, asked in enumerate(_get(paragraph, "qas", list, of_paragraph, path)):
                if not isinstance(asked, dict):
                    raise DataError(
                        f"{str(path)!r}, {of_paragraph}.qas[{last}] must be an object. Received: {shown(asked)}."
                    )
                yield f"{of_paragraph}.qas[{last}]", context, asked


def _get(data: Any, key: str, kind: type, where: str, path: Path) -> Any:
    """One value of an object, of that type."""
    if not isinstance(data, dict) or not isinstance(data.get(key), kind):
        found = shown(data.get(key)) if isinstance(data, dict) else shown(data)
        raise DataError(
            f"{str(path)!r} is not in the format of SQuAD: {where} must have {key!r}, a {kind.__name__}. Received: {found}."
        )
    return data[key]


def normalized_answer(text: str) -> str:
    """A text as SQuAD compares answers: in lower case, without punctuation, articles and extra white space.

    Examples:
        >>> normalized_answer("The  Eiffel Tower!")
        'eiffel tower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, gold: str) -> float:
    """1.0 if two answers are equal after `normalized_answer`, else 0.0.

    Examples:
        >>> exact_match("the cat", "Cat.")
        1.0
    """
    return float(normalized_answer(text) == normalized_answer(gold))


def f1(text: str, gold: str, rules: str = "1.1") -> float:
    """The harmonic mean of precision and recall of the words of an answer.

    Args:
        text: the answer.
        gold: the known answer.
        rules: of SQuAD "1.1", where no common word is 0.0, or "2.0", where two answers without words are 1.0.

    Examples:
        >>> f1("a black cat", "the cat")
        0.6666666666666666
    """
    words, wanted = normalized_answer(text).split(), normalized_answer(gold).split()
    if rules == "2.0" and not (words and wanted):
        return float(words == wanted)
    same = (Counter(words) & Counter(wanted)).total()
    if not same:
        return 0.0
    precision, recall = same / len(words), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def squad_scores(
    examples: Sequence[SpanExample],
    answers: Sequence[str | SpanAnswer],
    *,
    rules: str | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """The scores of SQuAD's own evaluation, in percent: each answer counts as the known answer that it fits best.

    Args:
        examples: the questions with their known answers.
        answers: one for each, in the same order: texts, or what `decode_spans` returned without a threshold.
        rules: "1.1" or "2.0"; by default those of 2.0 if a question has no answer.
        threshold: SpanAnswers whose `no_answer` is above count as "".

    Returns:
        `exact_match`, `f1`, `total`; by the rules of 2.0 also `has_answer_` and `no_answer_` each of these, of questions with
        and without an answer; and, for SpanAnswers, `best_exact_match` and `best_f1` with their `_threshold`.

    Raises:
        ArgumentError: not one answer for each example, or none at all; by the rules of 1.1, an example without an answer.

    Examples:
        >>> squad_scores([SpanExample("Who?", "Ann slept.", [("Ann", 0)])], ["ann slept"])["exact_match"]
        0.0
    """
    examples, answers = list(sequence(examples, "examples")), list(sequence(answers, "answers"))
    threshold = number(threshold, "threshold", least=0, most=1)
    if len(examples) != len(answers) or not examples:
        raise ArgumentError(
            f"squad_scores needs one answer for each example. Received: {len(answers)} for {len(examples)} examples."
        )
    for place, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        if not isinstance(example, SpanExample) or not isinstance(answer, str | SpanAnswer):
            raise ArgumentError(
                f"squad_scores takes SpanExamples, and strings or SpanAnswers. Received: {shown(example)} and "
                f"{shown(answer)} at place {place}."
            )
    unanswered = [example for example in examples if not example.answers]
    rules = ("2.0" if unanswered else "1.1") if rules is None else one_of(rules, "rules", _RULES)
    if rules == "1.1" and unanswered:
        raise ArgumentError(f'By rules="1.1" each example has an answer. Received: {shown(unanswered[0].question)}.')
    texts = [answer.text if isinstance(answer, SpanAnswer) else answer for answer in answers]
    doubts = [answer.no_answer if isinstance(answer, SpanAnswer) else 0.0 for answer in answers]
    has = [bool(example.answers) for example in examples]
    raw: dict[str, list[float]] = {"exact_match": [], "f1": []}
    for example, text in zip(examples, texts, strict=True):
        gold = [each for each, _ in example.answers]
        if rules == "2.0":
            gold = [each for each in gold if normalized_answer(each)] or [""]
        raw["exact_match"].append(max(exact_match(text, each) for each in gold))
        raw["f1"].append(max(f1(text, each, rules) for each in gold))
    found: dict[str, float] = {}
    for name, values in raw.items():
        cut = [
            float(not answerable) if doubt > threshold else value
            for value, doubt, answerable in zip(values, doubts, has, strict=True)
        ]
        groups = {"": cut}
        if rules == "2.0":
            groups["has_answer_"] = [value for value, answerable in zip(cut, has, strict=True) if answerable]
            groups["no_answer_"] = [value for value, answerable in zip(cut, has, strict=True) if not answerable]
        for prefix, own in groups.items():
            if own:
                found |= {f"{prefix}{name}": 100 * sum(own) / len(own), f"{prefix}total": len(own)}
        if rules == "2.0" and all(isinstance(answer, SpanAnswer) for answer in answers):
            best = _best_threshold(values, doubts, texts, has)
            found |= dict(zip((f"best_{name}", f"best_{name}_threshold"), best, strict=True))
    return found


def _best_threshold(
    values: Sequence[float], doubts: Sequence[float], texts: Sequence[str], has: Sequence[bool]
) -> tuple[float, float]:
    """The highest score that a threshold can reach, in percent, and the threshold."""
    score: float = has.count(False)  # that of answering nothing
    best, threshold = score, 0.0
    for place in sorted(range(len(values)), key=doubts.__getitem__):
        score += values[place] if has[place] else -float(bool(texts[place]))
        if score > best:
            best, threshold = score, doubts[place]
    return 100 * best / len(values), threshold

"""What `predict` returns: a table with the labels and probabilities that scores stand for. Without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embkeras._checks import number, sequence, shown
from embkeras.encoders.spans import SPAN_OUTPUTS
from embkeras.errors import ArgumentError, SavedModelError

if TYPE_CHECKING:
    import pandas as pd

SIGMOID, _THRESHOLD = "sigmoid", 0.5
Threshold: TypeAlias = float | Mapping[str, float] | Sequence[float] | None
Columns: TypeAlias = dict[str, Any]


def activation_of(card: Mapping[str, Any] | None, output: str) -> str | None:
    """ "sigmoid" or "softmax", if an output comes from one."""
    answers = [] if card is None else card["answers"]
    return next((each["activation"] for each in answers if each["name"] == output), None)


def outputs_of(card: Mapping[str, Any] | None, output: str | None) -> list[str]:
    """The outputs to ask for: the given one, or all of the model."""
    if output is not None and not isinstance(output, str):
        raise ArgumentError(f"output must be the name of an output. Received: {shown(output)}.")
    for each in [] if card is None else card["answers"]:
        if each["of"] is not None and len(each["shape"]) == 2 and output in (None, each["name"]):
            how = "answer(question, context), or scores()" if each["name"] in SPAN_OUTPUTS else "scores()"
            raise SavedModelError(
                f"The export's output {each['name']!r} is one number for each token of a text, not one score per class. "
                f"Use {how}."
            )
    return [output] if output is not None else ["scores"] if card is None else list(card["outputs"])


def no_scores(card: Mapping[str, Any] | None, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """The scores of no rows."""
    shapes = {each["name"]: each["shape"][1:] for each in ([] if card is None else card["answers"])}
    return {name: np.zeros((0, *(size or 2 for size in shapes.get(name, [2]))), np.float32) for name in outputs}


def prediction_table(
    inputs: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    card: Mapping[str, Any] | None,
    source: str,
    threshold: Threshold = None,
) -> "pd.DataFrame":
    """One row for each of the request: the inputs, and `label` and `probability` of the best class.

    With several outputs, the columns are NAME_label and NAME_probability; an output that is one number, and no probability,
    is the column NAME. Scores of a sigmoid: one is the probability of the second of two classes; of several, each label is
    for itself, and a row has a list of those over their thresholds, with a list of their probabilities.

    Args:
        inputs: the first columns.
        scores: by output, rows first.
        card: of the export, or None.
        source: of the scores, for messages.
        threshold: what scores of a sigmoid must reach: a number, one for each label, or by label; 0.5 without it.

    Raises:
        SavedModelError: scores that aren't one for each class, or are NaN or infinity; a column that would be there twice.
        ArgumentError: thresholds that aren't for the labels.
    """
    import pandas as pd  # only here: it takes more memory than the rest of a client together

    columns: Columns = {name: list(values) for name, values in inputs.items()}
    activations = {name: activation_of(card, name) for name in scores}
    if threshold is not None and SIGMOID not in activations.values():
        raise ArgumentError(
            f"threshold is for scores of a sigmoid, and {source} has none. Received: {shown(threshold)}."
        )
    for name, values in scores.items():
        prefix, of = ("", source) if len(scores) == 1 else (f"{name}_", f"{source}, output {name!r},")
        if len(scores) > 1 and values.ndim == 2 and values.shape[1] == 1 and activations[name] != SIGMOID:
            _check_finite(values, of)
            found: Columns = {name: values[:, 0]}
        else:
            class_names = None if card is None else card["class_names"]
            own = threshold if activations[name] == SIGMOID else None
            labels, probabilities = _labels(values, class_names, activations[name], own, of)
            found = {f"{prefix}label": labels, f"{prefix}probability": probabilities}
        twice = [column for column in found if column in columns]
        if twice:
            raise SavedModelError(
                f"{source} has an input {twice[0]!r}, which would be a column of predictions too. Use scores()."
            )
        columns |= found
    return pd.DataFrame(columns)


def _labels(
    scores: np.ndarray, class_names: Sequence[str] | None, activation: str | None, threshold: Threshold, source: str
) -> tuple[list[Any], Any]:
    """Label and probability of each row; without class names, a label is the number of the class."""
    if scores.ndim != 2 or (scores.shape[-1] < 2 and activation != SIGMOID):
        raise SavedModelError(
            f"{source} returns scores of shape {scores.shape[1:]} for a text, not one score per class. Use scores()."
        )
    binary = activation == SIGMOID and scores.shape[-1] == 1
    classes = 2 if binary else scores.shape[-1]
    names = list(class_names) if class_names else [str(index) for index in range(classes)]
    if len(names) != classes:
        raise SavedModelError(f"{source} has {len(names)} class names for {classes} scores.")
    _check_finite(scores, source)
    if binary:
        limit = _THRESHOLD if threshold is None else number(threshold, "threshold", least=0, most=1)
        second = (
            scores[:, 0] >= limit if threshold is not None else scores[:, 0] > limit
        )  # of equal scores, the first class
        return [names[int(index)] for index in second], np.where(second, scores[:, 0], 1 - scores[:, 0])
    if activation == SIGMOID:
        limits = thresholds(threshold, names)
        over = [np.flatnonzero(row >= limits) for row in scores]
        chosen = [row[places].tolist() for row, places in zip(scores, over, strict=True)]
        return [[names[index] for index in places] for places in over], chosen
    return [names[index] for index in scores.argmax(axis=1)], scores.max(axis=1, initial=-np.inf)


def thresholds(threshold: Threshold, labels: Sequence[str]) -> np.ndarray:
    """The threshold of each label; labels that a dictionary doesn't name have 0.5.

    Examples:
        >>> thresholds({"sport": 0.3}, ["news", "sport"])
        array([0.5, 0.3])

    Raises:
        ArgumentError: not numbers in [0, 1], another number of them than of labels, or an unknown label.
    """
    if threshold is None:
        return np.full(len(labels), _THRESHOLD)
    if isinstance(threshold, Mapping):
        unknown = [label for label in threshold if label not in labels]
        if unknown:
            raise ArgumentError(f"threshold must be by label: {', '.join(labels)}. Received: {shown(unknown[0])}.")
        by_label = {
            label: number(value, f"threshold[{label!r}]", least=0, most=1) for label, value in threshold.items()
        }
        return np.array([by_label.get(label, _THRESHOLD) for label in labels])
    if isinstance(threshold, Sequence | np.ndarray) and not isinstance(threshold, str) and np.ndim(threshold):
        listed = list(sequence(threshold, "threshold"))
        if len(listed) != len(labels):
            raise ArgumentError(f"threshold must have one for each of {len(labels)} labels. Received: {len(listed)}.")
        pairs = zip(labels, listed, strict=True)
        return np.array([number(value, f"threshold of {label!r}", least=0, most=1) for label, value in pairs])
    return np.full(len(labels), number(threshold, "threshold", least=0, most=1))


def _check_finite(scores: np.ndarray, source: str) -> None:
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        raise SavedModelError(f"{source} returns NaN or infinity as scores of text {finite.argmin()}.")

"""fit_class_means: the last layer of a classifier from the means of its classes, without gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras import _checks
from embkeras._arrays import as_array
from embkeras.errors import ArgumentError

_SHARPNESS = np.geomspace(1e-4, 1000, 57)  # tried, in units of 1 / (mean squared distance of a text to its class)


def fit_class_means(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    sample_weight: Any = None,
    validation_data: Any = None,
    batch_size: int = 32,
    epochs: int = 1,
    class_weight: Mapping[int, float] | None = None,
    shuffle: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = (),
    verbose: Any = 0,
) -> keras.callbacks.History:
    """Set the last layer so that the nearest class mean wins. It takes the place of `model.fit` where labels are few.

    All layers below the last run once over the data. A text is scored by its squared distance to the mean of each class
    (Snell, Swersky & Zemel 2017), which a softmax over a dense layer computes: kernel columns `2 s m` and bias `-s |m|^2`
    for a mean `m`. The sharpness `s` decides only how sure the scores are: it is the one under which each text's label is
    most likely when its class mean is computed without it, with the targets of Platt (1999), so that few texts never make
    it certain. Nothing below the last layer changes, and no seed plays a part.

    Args:
        model: compiled, with a graph, whose last layer is a Dense with softmax.
        x: inputs of n texts, as `fit` takes arrays of them.
        y: class numbers, shape (n,); each class needs at least one text.
        sample_weight: of each text in the mean of its class, shape (n,).
        validation_data: as for `fit`, measured once.
        batch_size: as for `fit`.
        epochs: has no effect, as there is one step; `fit` and strategies pass it.
        class_weight: has no effect, as means don't depend on the size of a class.
        shuffle: has no effect either; strategies pass it for datasets.
        callbacks: as for `fit`; they see one epoch without batches.
        verbose: as for `fit`.

    Returns:
        A History with one epoch: `loss` and metrics of the data, and with `val_` of the validation data.

    Raises:
        ArgumentError: a model of another form or that is not compiled, no inputs or a dataset as `x`, labels that are not class
            numbers, one for each row, a class without a text, vectors below the last layer that are not finite, weights that
            are negative, not finite, or leave a class without any, or validation data of another form.

    Examples:
        >>> inputs = keras.Input((2,))
        >>> model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))
        >>> model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = fit_class_means(model, np.eye(2), np.array([1, 0]))
        >>> history.history["accuracy"]
        [1.0]
    """
    last = _last_layer(model)
    batch_size = _checks.whole_number(batch_size, "batch_size", least=1)
    if x is None or _is_dataset(x):
        raise ArgumentError(
            f"x must be the inputs of the texts, as fit takes arrays of them. Received: {_checks.shown(x)}."
        )
    held_out = _held_out(validation_data, batch_size)
    labels = _labels(y, last.units)
    features = keras.Model(model.inputs, last.input).predict(x, batch_size=batch_size, verbose=0)
    if features.ndim != 2 or len(features) != len(labels):
        raise ArgumentError(
            f"Each text needs one vector below the last layer, and one label. "
            f"Received: vectors of shape {features.shape}, {len(labels)} labels."
        )
    features = features.astype(np.float64)
    unusable = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(unusable):
        raise ArgumentError(
            f"The vectors below the last layer must be finite numbers. Received: others for text {unusable[0]}."
        )
    weights = _weights(sample_weight, labels, last.units)
    given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or ())
    calls = keras.callbacks.CallbackList(given, add_history=True, model=model, epochs=1, verbose=0)
    calls.on_train_begin()
    calls.on_epoch_begin(0)
    sums = np.zeros((last.units, features.shape[1]))
    np.add.at(sums, labels, weights[:, None] * features)
    totals = np.bincount(labels, weights, last.units)
    means = sums / totals[:, None]
    sharpness = _sharpness(features, labels, weights, sums, totals)
    last.kernel.assign(2 * sharpness * means.T)
    if last.bias is not None:
        squares = sharpness * (means**2).sum(axis=1)
        last.bias.assign(squares.min() - squares)  # softmax ignores what all classes share
    found = model.evaluate(x, labels, batch_size=batch_size, sample_weight=sample_weight, verbose=0, return_dict=True)
    if validation_data is not None:
        held = model.evaluate(**held_out, verbose=0, return_dict=True)
        found |= {f"val_{name}": value for name, value in held.items()}
    calls.on_epoch_end(0, found)
    calls.on_train_end(found)
    if verbose:
        print(f"Class means of {len(labels)} texts: " + ", ".join(f"{name} {found[name]:.4g}" for name in found))
    return model.history


def _last_layer(model: Any) -> keras.layers.Dense:
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ArgumentError(f"fit_class_means takes a compiled Keras model. Received: {_checks.shown(model)}.")
    last: Any = model.layers[-1] if getattr(model, "inputs", None) and len(model.outputs) == 1 else None
    if type(last) is not keras.layers.Dense or last.activation is not keras.activations.softmax or not last.use_bias:
        raise ArgumentError(
            f"fit_class_means needs a model with a graph whose one output is a Dense layer with a bias and softmax. "
            f"Received: model {model.name!r}, which ends with {_checks.shown(last)}."
        )
    return last


def _is_dataset(data: Any) -> bool:
    return isinstance(data, tf.data.Dataset | keras.utils.PyDataset)


def _held_out(validation_data: Any, batch_size: int) -> dict[str, Any]:
    """The arguments of `evaluate` for validation data."""
    if _is_dataset(validation_data):
        return {"x": validation_data}
    parts = validation_data if isinstance(validation_data, tuple | list) else ()
    if validation_data is not None and (len(parts) not in (2, 3) or parts[1] is None):
        raise ArgumentError(
            f"validation_data must be (inputs, labels), with sample_weight as the third item if there are weights, or a "
            f"dataset. Received: {_checks.shown(validation_data)}."
        )
    names = ("x", "y", "sample_weight")
    return dict(zip(names, parts, strict=False)) | {"batch_size": batch_size}


def _labels(y: Any, classes: int) -> np.ndarray:
    labels = as_array(y, "y")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iuf" or (labels % 1).any():
        raise ArgumentError(
            f"y must be class numbers, one for each text. Received: shape {labels.shape}, dtype {labels.dtype}."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ArgumentError(
            f"y must be classes from 0 to {classes - 1}. Received: {labels[wrong[0]]} at place {wrong[0]}."
        )
    labels = labels.astype(np.int64)
    missing = np.setdiff1d(np.arange(classes), labels)
    if len(missing):
        raise ArgumentError(f"Each class needs a text, as its mean decides. Received: no text of class {missing[0]}.")
    return labels


def _weights(sample_weight: Any, labels: np.ndarray, classes: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(len(labels))
    given = as_array(sample_weight, "sample_weight")
    if given.shape != labels.shape:
        raise ArgumentError(f"sample_weight must have shape {labels.shape}. Received: shape {given.shape}.")
    try:
        weights = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"sample_weight must be finite numbers >= 0. Received: {error}.") from None
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ArgumentError(
            f"sample_weight must be finite numbers >= 0. Received: {weights[wrong[0]]} at place {wrong[0]}."
        )
    light = np.flatnonzero(np.bincount(labels, weights, classes) == 0)
    if len(light):
        raise ArgumentError(f"Each class needs a text with weight. Received: none for class {light[0]}.")
    return weights


def _sharpness(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, sums: np.ndarray, totals: np.ndarray
) -> float:
    """The one under which labels are most likely, each text scored with the mean of its class without it."""
    rows = np.arange(len(labels))
    means = sums / totals[:, None]
    left = totals[labels] - weights
    alone = left <= 1e-9 * totals[labels]  # the only text of its class has no mean without it
    own = (sums[labels] - weights[:, None] * features) / np.where(alone, 1, left)[:, None]
    distances = ((features[:, None] - means) ** 2).sum(axis=2)
    unit = float(np.average(distances[rows, labels], weights=weights))
    distances[rows, labels] = ((features - own) ** 2).sum(axis=1)
    if alone.all() or unit <= 0:
        return 1.0
    targets = np.zeros_like(distances)
    texts = np.bincount(labels, minlength=len(means))
    targets += (1 / (texts[labels] + 2) / max(len(means) - 1, 1))[:, None]
    targets[rows, labels] = (texts[labels] + 1) / (texts[labels] + 2)

    def loss(sharpness: float) -> float:
        scores = -sharpness * (distances - distances.min(axis=1, keepdims=True))
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return float(-(weights * (targets * logs).sum(axis=1))[~alone].sum())

    return float(min(_SHARPNESS / unit, key=loss))

"""propagate_drift: rows that training never read move as the rows near them moved.

Kernel ridge regression (Saunders et al. 1998) from the direction of a row before training to its displacement, on the
rows that training read, with the most frequent of them as landmarks (Williams & Seeger 2001, the Nystroem method):

    d_i   = after_i - before_i, less the weighted mean of all d          (w_i = n_i / (n_i + 5) for a row read n_i times)
    k     = exp((cosine(before_i, before_j) - 1) / 0.4)
    M     = argmin  sum_i w_i |d_i - k(i, landmarks) M|^2 / sum_i w_i  +  penalty trace(M' K M) / landmarks
    row_u = after_u + factor * shrinkage * k(u, landmarks) M             (u never read)

The mean displacement is what all words share: it is a bias, and carrying it costs accuracy. R2 on rows held out is small
(0.02 to 0.08 for tables of a few thousand texts), so least squares shrinks the move to where it hardly shows; `factor`
makes up for that.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from embkeras._arrays import check_counts, check_finite, check_mask, check_matrix, row_slices, unit_rows
from embkeras._checks import number, shown
from embkeras._progress import Report, progress
from embkeras.errors import ArgumentError

PENALTIES = (0.03, 0.3)
FACTORS = (0.0, 1.0, 2.0, 4.0, 8.0)  # tried with `loss`
PLAIN_FACTOR = 3.0  # taken without it
_HALF_WEIGHT, _KERNEL_WIDTH, _LANDMARKS, _FOLDS = 5.0, 0.4, 300, 4
_LEAST_ROWS = 2 * _FOLDS
_JITTER = 1e-7  # keeps the systems regular where landmarks coincide


@dataclass(frozen=True, eq=False)
class CarriedDrift:
    """What `propagate_drift` returns; `layer.assign_table(carried.table)` installs it. `str()` says what was done.

    Attributes:
        table: shape (V, D), of the dtype of `after`; where nothing was carried, a copy of `after`.
        r2: share of the displacement's variance that was predicted on read rows held out, weighted; at most 1, negative
            if the mean would have been better, NaN if there were too few rows to measure it.
        factor: what the predicted displacements were multiplied by; 0 if nothing was carried.
        shrinkage: the least-squares multiplier of the predictions for rows held out; 0 if r2 <= 0.
        penalty: the weight of the ridge penalty that predicted rows held out best; None if none was fitted.
        rows_fitted: rows that training read and moved, from which the displacement was learned.
        rows_moved: rows that training did not read and that were moved.
        landmarks: how many of the fitted rows were landmarks.
        losses: factor -> what `loss` returned; None without `loss`.
        reason: why nothing was carried, in a sentence; "" if something was.
    """

    table: np.ndarray = field(repr=False)
    r2: float
    factor: float
    shrinkage: float = 0.0
    penalty: float | None = None
    rows_fitted: int = 0
    rows_moved: int = 0
    landmarks: int = 0
    losses: dict[float, float] | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"Nothing carried: {self.reason}"
        chosen = "without a loss to choose it by"
        if self.losses is not None:
            chosen = f"with validation loss {self.losses[self.factor]:.4g} (without carrying {self.losses[0.0]:.4g})"
        return (
            f"Carried the drift of {self.rows_fitted:,} rows to {self.rows_moved:,} that training did not read: "
            f"R2 {self.r2:.3f} on rows held out, factor {self.factor:g} {chosen}."
        )

    def figures(self) -> dict[str, Any]:
        """All figures and the settings behind them, without the table, such as for `export_saved_model(metadata=)`."""
        return {
            "result": str(self),
            "r2": None if np.isnan(self.r2) else self.r2,
            "factor": self.factor,
            "shrinkage": self.shrinkage,
            "penalty": self.penalty,
            "rows_fitted": self.rows_fitted,
            "rows_moved": self.rows_moved,
            "losses": None if self.losses is None else {f"{factor:g}": loss for factor, loss in self.losses.items()},
            "landmarks": self.landmarks,
            "kernel_width": _KERNEL_WIDTH,
            "count_of_half_weight": _HALF_WEIGHT,
            "folds": _FOLDS,
        }


def propagate_drift(
    before: Any,
    after: Any,
    seen: Any,
    *,
    counts: Any = None,
    loss: Callable[[np.ndarray], float] | None = None,
) -> CarriedDrift:
    """Carry the drift of the rows that training read to the rows that it did not, as their neighbours moved.

    Fine-tuning moves the words of the training texts and leaves the others behind (`DriftReport.diverged_synonyms`). Here
    the displacement of a word is predicted from its direction before training. How well that works is measured on rows
    held out; where it doesn't (`r2` <= 0), nothing moves, and the result says so. Rows in `seen` and rows of zeros, such
    as the padding, stay bit-identical.

    Memory: one table for the result, with `loss` two, and about 100 MB. 400,000 x 300 takes seconds.

    Args:
        before: floats of shape (V, D), the table as it entered training: `layer.matrix()` before `fit`.
        after: floats of shape (V, D), the table after training: `layer.matrix()`.
        seen: bool array of shape (V,): rows that stay as they are, which are those that training read
            (`vocabulary.counts > 0`) and others that you want to keep, such as rows that you froze. Rows of `seen` that
            training did not move at all count as frozen: nothing is learned from them.
        counts: occurrences of each token in training, V numbers >= 0: frequent words count more, and are the landmarks.
        loss: a function that installs a table (V, D), such as with `layer.assign_table`, and returns the validation loss.
            It is called for the factors 0, 1, 2, 4 and 8, and the factor of the smallest loss is taken, 0 included.
            By default the factor is 3. The layer then holds the last table tried, so assign the result.

    Returns:
        The table with the carried rows, (V, D), and what it was measured by; where nothing was carried, a copy of `after`.

    Raises:
        ArgumentError: shapes that don't match, NaN or infinity, a mask or counts of another shape, a row outside of `seen`
            that training moved, a `loss` that returns something other than a finite number, or a result that the dtype
            can't hold.

    Examples:
        >>> angles = np.linspace(0, 3, 200)
        >>> before = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        >>> after, seen = before.copy(), np.arange(200) % 5 > 0
        >>> after[seen, 0] += before[seen, 1] ** 2  # words of one region moved; every fifth word was not in the texts
        >>> carried = propagate_drift(before, after, seen)
        >>> carried.rows_moved, carried.r2 > 0.9
        (40, True)
    """
    before, after, seen, counts = _checked(before, after, seen, counts, loss)
    directed, moved = _rows_with_direction(before), _rows_that_moved(before, after)
    _check_unseen(seen, moved)
    weights = counts / (counts + _HALF_WEIGHT)
    fitted, rows = np.flatnonzero(seen & moved & directed & (weights > 0)), np.flatnonzero(~seen & directed)
    if not len(rows) or len(fitted) < _LEAST_ROWS:
        few = f"training moved {len(fitted)} rows of seen that have a direction, and {_LEAST_ROWS} are needed."
        reason = few if len(rows) else "every row is in seen, or zeros."
        return CarriedDrift(np.array(after), np.nan, 0.0, rows_fitted=len(fitted), reason=reason)
    with progress("carrying drift") as report:
        fit = _fit(before, after, fitted, weights[fitted], report)
        figures: dict[str, Any] = {"r2": fit.r2, "shrinkage": fit.shrinkage, "penalty": fit.penalty}
        figures |= {"rows_fitted": len(fitted), "landmarks": len(fit.landmarks)}
        if fit.penalty is None:
            reason = f"the displacement of rows held out can't be predicted from rows near them (R2 {fit.r2:.3f})."
            return CarriedDrift(np.array(after), factor=0.0, reason=reason, **figures)
        moves: Iterable[tuple[np.ndarray, np.ndarray]] = _moves(before, rows, fit, report)
        if loss is None:
            return CarriedDrift(
                _table(after, moves, PLAIN_FACTOR), factor=PLAIN_FACTOR, rows_moved=len(rows), **figures
            )
        moves = list(moves)
        losses = {each: _loss_of(loss, _table(after, moves, each), each) for each in FACTORS}
        factor = min(FACTORS, key=lambda each: (losses[each], each))
        if factor:
            figures |= {"rows_moved": len(rows)}
        else:
            figures |= {"reason": f"the validation loss is smallest without ({losses[0.0]:.4g}; R2 {fit.r2:.3f})."}
        return CarriedDrift(_table(after, moves, factor), factor=factor, losses=losses, **figures)


def _checked(before: Any, after: Any, seen: Any, counts: Any, loss: Any) -> tuple[np.ndarray, ...]:
    before = check_matrix(before, "before")
    after = check_matrix(after, "after", rows=len(before))
    if before.shape != after.shape:
        raise ArgumentError(f"before and after must have the same shape. Received: {before.shape} and {after.shape}.")
    seen = check_mask(seen, "seen", len(before))
    counts = np.ones(len(before)) if counts is None else check_counts(counts, len(before))
    if loss is not None and not callable(loss):
        raise ArgumentError(
            f"loss must be a function of a table that returns its validation loss. Received: {shown(loss)}."
        )
    return check_finite(before, "before"), check_finite(after, "after"), seen, counts


def _rows_with_direction(before: np.ndarray) -> np.ndarray:
    """Bool array of shape (V,): rows that are not zeros."""
    return np.concatenate([np.zeros(0, bool), *(before[part].any(axis=1) for part in row_slices(before.shape))])


def _rows_that_moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Bool array of shape (V,): rows with any difference."""
    parts = row_slices(before.shape)
    return np.concatenate([np.zeros(0, bool), *((before[part] != after[part]).any(axis=1) for part in parts)])


def _check_unseen(seen: np.ndarray, moved: np.ndarray) -> None:
    wrong = np.flatnonzero(moved & ~seen)
    if len(wrong):
        raise ArgumentError(
            f"Training moves only rows that it reads, so rows that moved must be in seen. Received: {len(wrong):,} that "
            f"moved and are not, the first is row {wrong[0]}. If these are most rows, before is not the table that entered "
            f"training (take layer.matrix() before fit), or weight decay moved them (reset them: after[~seen] = "
            f"before[~seen]); otherwise pass seen | (before != after).any(axis=1)."
        )


class _Fit(NamedTuple):
    """The predicted displacement of a direction; if `penalty` is None, rows held out could not be predicted."""

    landmarks: np.ndarray  # (m, D) unit rows
    solution: np.ndarray  # (m, D), float32, shrunk
    r2: float
    shrinkage: float
    penalty: float | None


class _Sums(NamedTuple):
    """The weighted normal equations of some rows."""

    gram: np.ndarray  # (m, m)
    right: np.ndarray  # (m, D)
    squares: float  # of the displacements
    weight: float

    def plus(self, other: "_Sums", sign: int = 1) -> "_Sums":
        """The sums over the rows of both, or with sign -1 over those of this one alone."""
        return _Sums(
            self.gram + sign * other.gram,
            self.right + sign * other.right,
            self.squares + sign * other.squares,
            self.weight + sign * other.weight,
        )

    def solve(self, ridge: np.ndarray) -> np.ndarray:
        """M (m, D), for the penalty times its matrix (m, m)."""
        left = self.gram / self.weight + ridge + _JITTER * np.eye(len(ridge))
        return np.linalg.solve(left, self.right / self.weight)

    def gains(self, solution: np.ndarray) -> np.ndarray:
        """Weighted products of prediction and displacement, and of prediction and prediction, over the rows."""
        return np.array([np.vdot(self.right, solution), np.vdot(solution, self.gram @ solution)])


def _fit(before: np.ndarray, after: np.ndarray, ids: np.ndarray, weights: np.ndarray, report: Report) -> _Fit:
    """Learn the displacement of the rows `ids`; penalty and shrinkage by cross-validation."""
    weights = weights / weights.max()
    mean, largest = _mean_displacement(before, after, ids, weights)
    first = ids[np.argsort(-weights, kind="stable")[:_LANDMARKS]]
    landmarks = unit_rows(before[first])
    folds = np.random.default_rng(0).permutation(len(ids)) % _FOLDS
    sums = []
    for fold in range(_FOLDS):
        report(fold, 2 * _FOLDS)  # the other half is the rows that will move
        own = folds == fold
        sums.append(_sums(before, after, ids[own], weights[own], landmarks, mean, largest))
    total = sums[0].plus(sums[1])
    for each in sums[2:]:
        total = total.plus(each)
    ridge = (_kernel(landmarks, landmarks) + 1e-4 * np.eye(len(landmarks))) / len(landmarks)
    r2, shrinkage, penalty = max((*_cross_validated(sums, total, penalty * ridge), penalty) for penalty in PENALTIES)
    if not (r2 > 0 and shrinkage > 0):
        return _Fit(landmarks, np.zeros_like(landmarks), r2, 0.0, None)
    with np.errstate(over="ignore"):  # what does not fit becomes infinity, and is refused with the table
        solution = (largest * shrinkage * total.solve(penalty * ridge)).astype(np.float32)
    return _Fit(landmarks, solution, r2, shrinkage, penalty)


def _cross_validated(sums: list[_Sums], total: _Sums, ridge: np.ndarray) -> tuple[float, float]:
    """R2 on rows held out, each fold shrunk as the other folds need it, and the shrinkage over all folds."""
    if not total.squares > 0:
        return 0.0, 0.0
    gains = np.array([each.gains(total.plus(each, -1).solve(ridge)) for each in sums])
    others = gains.sum(axis=0) - gains
    shrinkages = _shrinkage(others)
    explained = (2 * shrinkages * gains[:, 0] - shrinkages**2 * gains[:, 1]).sum()
    return float(explained / total.squares), float(_shrinkage(gains.sum(axis=0)))


def _shrinkage(gains: np.ndarray) -> np.ndarray:
    """The multiplier >= 0 of predictions that has the least squared error."""
    return np.maximum(gains[..., 0], 0) / np.maximum(gains[..., 1], 1e-30)


def _displacement(before: np.ndarray, after: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """How the rows `ids` moved, float64."""
    return after[ids].astype(np.float64) - before[ids]


def _mean_displacement(
    before: np.ndarray, after: np.ndarray, ids: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, float]:
    """The weighted mean displacement (D,), and the largest entry of any, so that squares stay inside float32."""
    total, largest = np.zeros(before.shape[1]), 0.0
    for part in row_slices((len(ids), before.shape[1])):
        with np.errstate(over="ignore", invalid="ignore"):
            change = _displacement(before, after, ids[part])
            total += weights[part] @ change
        largest = max(largest, float(np.abs(change).max()))
    if not np.isfinite(total).all():
        raise ArgumentError(
            "Displacements must be finite. Received: tables whose numbers are too large to be subtracted."
        )
    return total / weights.sum(), largest


def _sums(
    before: np.ndarray,
    after: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray,
    landmarks: np.ndarray,
    mean: np.ndarray,
    largest: float,
) -> _Sums:
    """The normal equations of the rows `ids`, with displacements divided by `largest`."""
    count, width = len(landmarks), before.shape[1]
    sums = _Sums(np.zeros((count, count)), np.zeros((count, width)), 0.0, 0.0)
    for part in row_slices((len(ids), max(count, width))):
        rows, weight = ids[part], weights[part].astype(np.float32)[:, None]
        change = ((_displacement(before, after, rows) - mean) / largest).astype(np.float32)
        kernel = _kernel(before[rows], landmarks)
        weighted = (kernel * weight).T
        squares = float((weight * change**2).sum(dtype=np.float64))
        sums = sums.plus(_Sums(weighted @ kernel, weighted @ change, squares, float(weights[part].sum())))
    return sums


def _kernel(rows: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """exp((cosine - 1) / width) of each row (rows, D) and landmark, float32 of shape (rows, m)."""
    kernel = unit_rows(rows) @ landmarks.T
    kernel -= 1
    kernel /= _KERNEL_WIDTH
    return np.exp(kernel, out=kernel)


def _moves(before: np.ndarray, rows: np.ndarray, fit: _Fit, report: Report) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (some of the rows, their displacement for factor 1)."""
    for part in row_slices((len(rows), max(fit.landmarks.shape))):
        report(len(rows) + part.start, 2 * len(rows))
        yield rows[part], _kernel(before[rows[part]], fit.landmarks) @ fit.solution


def _table(after: np.ndarray, moves: Iterable[tuple[np.ndarray, np.ndarray]], factor: float) -> np.ndarray:
    """A copy of `after` with `factor` times the displacements added."""
    table = np.array(after)
    for rows, change in moves if factor else ():
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinity, and is refused
            moved = (after[rows] + np.float32(factor) * change).astype(table.dtype)
        bad = ~np.isfinite(moved).all(axis=1)
        if bad.any():
            raise ArgumentError(
                f"The result must fit into {table.dtype}. Received: tables whose row {rows[bad.argmax()]} becomes too large."
            )
        table[rows] = moved
    return table


def _loss_of(loss: Callable[[np.ndarray], Any], table: np.ndarray, factor: float) -> float:
    """What the user's function returns for a table."""
    return number(loss(table), "What loss(table) returns", where=f"for the table with factor {factor:g}")

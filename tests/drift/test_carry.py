"""propagate_drift: rows that training never read move as the rows near them did, or stay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import _arrays, propagate_drift
from embkeras.drift import carry
from embkeras.errors import ArgumentError
from tests.properties import PROPERTY

ROWS, WIDTH = 120, 4
SEEN = np.arange(ROWS) % 3 > 0


def tables(seed=0, noise=0.05, size=0.3):
    """Random directions; rows of SEEN moved by a smooth function of them, and noise."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(ROWS, WIDTH))
    before[0] = 0
    unit = before / np.maximum(np.linalg.norm(before, axis=1, keepdims=True), 1e-9)
    change = size * np.tanh(3 * unit @ rng.normal(size=(WIDTH, WIDTH))) + noise * rng.normal(size=before.shape)
    return before, np.where(SEEN[:, None], before + change, before), before + change


def by_loops(before, after, ids, counts, penalty):
    """The fit for one penalty, row by row and with the textbook's sums: R2, shrinkage and a function of a row."""
    weights = {id_: counts[id_] / (counts[id_] + 5) for id_ in ids}
    largest = max(weights.values())
    weights = {id_: weight / largest for id_, weight in weights.items()}
    mean = sum(weights[id_] * (after[id_] - before[id_]) for id_ in ids) / sum(weights.values())
    change = {id_: after[id_] - before[id_] - mean for id_ in ids}
    landmarks = sorted(ids, key=lambda id_: -counts[id_])[:300]

    def kernel(row):
        cosines = [row @ before[z] / np.linalg.norm(row) / np.linalg.norm(before[z]) for z in landmarks]
        return np.array([np.exp((cosine - 1) / 0.4) for cosine in cosines])

    kernels = {id_: kernel(before[id_]) for id_ in ids}

    def solve(some):
        left, right = np.zeros((len(landmarks),) * 2), np.zeros((len(landmarks), WIDTH))
        for id_ in some:
            left += weights[id_] * np.outer(kernels[id_], kernels[id_])
            right += weights[id_] * np.outer(kernels[id_], change[id_])
        total = sum(weights[id_] for id_ in some)
        ridge = np.array([kernels[z] for z in landmarks]) + 1e-4 * np.eye(len(landmarks))
        left = left / total + penalty * ridge / len(landmarks) + 1e-7 * np.eye(len(landmarks))
        return np.linalg.solve(left, right / total)

    fold_of = dict(zip(ids, np.random.default_rng(0).permutation(len(ids)) % 4, strict=True))
    solutions = [solve([id_ for id_ in ids if fold_of[id_] != fold]) for fold in range(4)]
    predicted = {id_: kernels[id_] @ solutions[fold_of[id_]] for id_ in ids}

    def shrinkage(some):
        with_change = sum(weights[id_] * predicted[id_] @ change[id_] for id_ in some)
        return max(0, with_change / sum(weights[id_] * predicted[id_] @ predicted[id_] for id_ in some))

    errors = 0
    for id_ in ids:
        others = shrinkage([other for other in ids if fold_of[other] != fold_of[id_]])
        errors += weights[id_] * np.sum((change[id_] - others * predicted[id_]) ** 2)
    r2 = 1 - errors / sum(weights[id_] * np.sum(change[id_] ** 2) for id_ in ids)
    shrunk = shrinkage(ids) * solve(ids)
    return r2, shrinkage(ids), lambda row: kernel(row) @ shrunk


def test_carry_equals_plain_loops():
    """R2, shrinkage, penalty and rows are those of the formula, row by row."""
    before, after, _ = tables()
    counts = np.where(SEEN, np.arange(ROWS) % 17 + 1, 0)
    ids = np.flatnonzero(SEEN)
    fits = {penalty: by_loops(before, after, ids, counts, penalty) for penalty in (0.03, 0.3)}
    best = max(fits, key=lambda penalty: fits[penalty][0])
    r2, shrinkage, move = fits[best]
    carried = propagate_drift(before, after, SEEN, counts=counts)
    assert carried.penalty == best
    assert (carried.r2, carried.shrinkage) == pytest.approx((r2, shrinkage), rel=1e-4)
    expected = [before[id_] + 3 * move(before[id_]) for id_ in range(1, ROWS) if not SEEN[id_]]
    np.testing.assert_allclose(carried.table[1:][~SEEN[1:]], expected, atol=1e-4)
    assert (carried.rows_fitted, carried.rows_moved, carried.landmarks) == (80, 39, 80)


def test_carried_rows_are_nearer_to_what_training_would_have_made_of_them():
    """By the factor that a loss prefers; its losses are kept, and the table is the one of the smallest."""
    before, after, truth = tables(noise=0)
    tried = []

    def loss(table):
        tried.append(table)
        return float(np.square(table - truth)[~SEEN].sum())

    carried = propagate_drift(before, after, SEEN, loss=loss)
    assert [*carried.losses] == [0, 1, 2, 4, 8] and len(tried) == 5
    assert carried.losses[carried.factor] == min(carried.losses.values()) < carried.losses[0] / 2
    np.testing.assert_array_equal(carried.table, tried[[0, 1, 2, 4, 8].index(carried.factor)])
    assert not any(np.shares_memory(table, carried.table) for table in (*tried, after))


@PROPERTY
@given(st.integers(0, 10**6), st.sampled_from(["float16", "float32", "float64"]), st.booleans())
def test_seen_rows_and_rows_of_zeros_stay_bit_identical(seed, dtype, noisy):
    """Whatever is carried; the tables given are never written."""
    before, after, _ = tables(seed, noise=10.0 if noisy else 0.1)
    before, after = before.astype(dtype), after.astype(dtype)
    for table in (before, after):
        table.flags.writeable = False
    carried = propagate_drift(before, after, SEEN)
    stay = SEEN | ~before.any(axis=1)
    assert (carried.table.dtype, carried.table.shape) == (after.dtype, after.shape)
    assert carried.table[stay].tobytes() == after[stay].tobytes()
    assert (carried.table[~stay] != after[~stay]).any() == (carried.factor > 0) == (not carried.reason)


@PROPERTY
@given(st.integers(0, 10**6), st.sampled_from([1e-30, 1e-3, 7.0, 1e30]))
def test_scale_and_rotation_go_with_the_table(seed, scale):
    """Directions and displacements alone matter: a table in other units or turned is carried likewise."""
    before, after, _ = tables(seed)
    plain = propagate_drift(before, after, SEEN)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0] * scale
    other = propagate_drift(before @ turn, np.where(SEEN[:, None], after @ turn, before @ turn), SEEN)
    assert other.r2 == pytest.approx(plain.r2, abs=1e-4)
    np.testing.assert_allclose(other.table, plain.table @ turn, rtol=1e-3, atol=1e-3 * scale)


@PROPERTY
@given(st.integers(0, 10**6), st.lists(st.floats(-5, 5), min_size=WIDTH, max_size=WIDTH))
def test_what_all_rows_share_is_not_carried(seed, shift):
    """The same vector added to every row that training read changes nothing for the others."""
    before, after, _ = tables(seed)
    shifted = np.where(SEEN[:, None], after + shift, after)
    moved = (shifted != before).any(axis=1)
    plain, other = (propagate_drift(before, table, SEEN) for table in (after, shifted))
    assert moved[SEEN].all()
    np.testing.assert_allclose(other.table[~SEEN], plain.table[~SEEN], atol=1e-3)


def test_noise_is_not_carried():
    """Displacements that no direction predicts: R2 <= 0, a copy of the table, and a sentence that says so."""
    before, after, _ = tables(seed=1, size=0, noise=1)
    carried = propagate_drift(before, after, SEEN)
    assert carried.r2 <= 0 == carried.factor == carried.rows_moved and carried.penalty is None
    np.testing.assert_array_equal(carried.table, after)
    assert not np.shares_memory(carried.table, after)
    assert str(carried).startswith("Nothing carried: ") and f"R2 {carried.r2:.3f}" in str(carried)


def test_r2_of_noise_is_centred_at_zero():
    """Held-out rows take no part in what is judged on them: of 60 tables of noise hardly any is believed."""
    found = [propagate_drift(*tables(seed, size=0, noise=1)[:2], SEEN) for seed in range(60)]
    assert sum(each.factor > 0 for each in found) <= 12
    assert max(each.r2 for each in found) < 0.05


def test_loss_may_prefer_that_nothing_moves():
    """A tie goes to the smaller factor; the result says what the loss was."""
    before, after, _ = tables()
    carried = propagate_drift(before, after, SEEN, loss=lambda table: 0.25)
    np.testing.assert_array_equal(carried.table, after)
    assert (carried.factor, carried.rows_moved) == (0, 0) and carried.r2 > 0
    assert "the validation loss is smallest without (0.25; R2 0." in str(carried)


def test_frozen_rows_stay_and_teach_nothing():
    """Rows of `seen` that did not move at all were frozen: the rest is carried as if they were not there."""
    before, after, _ = tables()
    frozen = np.arange(ROWS) < 30
    after = np.where(frozen[:, None], before, after)
    carried = propagate_drift(before, after, SEEN | frozen)
    without = propagate_drift(before[30:], after[30:], SEEN[30:])
    np.testing.assert_array_equal(carried.table[:30], before[:30])
    np.testing.assert_allclose(carried.table[30:], without.table, atol=1e-6)
    assert carried.rows_fitted == without.rows_fitted == 60


def test_counts_weigh_rows():
    """A row with count 0 teaches nothing, one with a large count more than one with count 1."""
    before, after, _ = tables()
    counts = np.where(np.arange(ROWS) < 60, 50, 0)
    assert propagate_drift(before, after, SEEN, counts=counts).rows_fitted == 40
    frequent, rare = (propagate_drift(before, after, SEEN, counts=np.full(ROWS, n)) for n in (50, 1))
    assert frequent.r2 == pytest.approx(rare.r2)  # alike for all: nothing changes
    half = propagate_drift(before, after, SEEN, counts=np.where(np.arange(ROWS) < 60, 50, 1))
    assert abs(half.r2 - rare.r2) > 1e-3


def test_rows_that_were_zeros_teach_nothing():
    """They had no direction, such as words without a vector that training moved."""
    before, after, _ = tables()
    before[np.flatnonzero(SEEN)[:5]] = 0
    assert propagate_drift(before, after, SEEN).rows_fitted == 75


def test_landmarks_are_the_rows_counted_most(monkeypatch):
    """With room for few, those decide which directions are told apart."""
    monkeypatch.setattr(carry, "_LANDMARKS", 9)
    before, after, _ = tables()
    counts = np.where(np.isin(np.arange(ROWS), np.flatnonzero(SEEN)[-9:]), 100, 1)
    seen = []
    stock = carry.unit_rows
    monkeypatch.setattr(carry, "unit_rows", lambda rows: seen.append(np.array(rows)) or stock(rows))
    carried = propagate_drift(before, after, SEEN, counts=counts)
    assert carried.landmarks == 9
    np.testing.assert_array_equal(seen[0], before[np.flatnonzero(SEEN)[-9:]])


def test_blocks_make_no_difference(monkeypatch, tmp_path):
    """Rows taken a few at a time, from memory-mapped files too."""
    before, after, _ = tables()
    whole = propagate_drift(before, after, SEEN)
    np.save(tmp_path / "before.npy", before)
    np.save(tmp_path / "after.npy", after)
    monkeypatch.setattr(_arrays, "BLOCK", 700)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("before", "after")]
    carried = propagate_drift(*mapped, SEEN)
    assert type(carried.table) is np.ndarray
    np.testing.assert_allclose(carried.table, whole.table, atol=1e-4)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (np.ones(ROWS, bool), "every row is in seen, or zeros"),
        (np.arange(ROWS) < 11, r"training moved 7 rows of seen that have a direction, and 8 are needed"),
        (np.zeros(ROWS, bool), r"training moved 0 rows of seen .*, and 8 are needed"),
    ],
)
def test_too_few_rows_move_nothing(seen, reason):
    """A sentence says which are missing; R2 was not measured."""
    before, after, _ = tables()
    after = np.where(seen[:, None], after, before)
    carried = propagate_drift(before, after, seen)
    np.testing.assert_array_equal(carried.table, after)
    assert not np.shares_memory(carried.table, after)
    assert np.isnan(carried.r2) and carried.factor == 0 and carried.figures()["r2"] is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(str(carried))


def test_table_without_rows_and_rows_that_moved_alike():
    """Nothing to learn: no row, or one and the same displacement for all."""
    assert propagate_drift(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, bool)).table.shape == (0, 3)
    before, _, _ = tables()
    carried = propagate_drift(before, np.where(SEEN[:, None], before + 1, before), SEEN)
    assert carried.factor == 0 and carried.r2 <= 0


def test_figures_are_plain_values():
    """For a model card: every figure and setting, no array."""
    before, after, _ = tables()
    figures = propagate_drift(before, after, SEEN, loss=lambda table: float(table[3, 0])).figures()
    assert {"r2", "factor", "shrinkage", "penalty", "rows_fitted", "rows_moved", "kernel_width"} < set(figures)
    assert set(figures["losses"]) == {"0", "1", "2", "4", "8"}
    assert all(isinstance(value, str | int | float | dict) for value in figures.values())


def test_text_says_what_was_carried():
    """Rows, R2, factor, and how it was chosen."""
    before, after, _ = tables()
    text = str(propagate_drift(before, after, SEEN))
    assert text.startswith("Carried the drift of 80 rows to 39 that training did not read: R2 0.")
    assert "factor 3 without a loss" in text
    chosen = str(propagate_drift(before, after, SEEN, loss=lambda table: -float(table[~SEEN].std())))
    assert "with validation loss" in chosen and "without carrying" in chosen


@pytest.mark.parametrize("missing", [0, 1, 40])
def test_rows_that_moved_unseen_are_refused(missing):
    """Another table as `before`, or a mask that lacks rows: the message says how many, and which first."""
    before, after, _ = tables()
    seen = SEEN.copy()
    gone = np.flatnonzero(SEEN)[: missing or ROWS]
    seen[gone] = False
    with pytest.raises(
        ArgumentError, match=rf"rows that moved must be in seen. Received: {len(gone)} .* row {gone[0]}\."
    ):
        propagate_drift(before, after, seen)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ({0: None}, {}, r"before must have the shape .* Received: shape \(\)"),
        ({1: "after"}, {}, "after must have the shape"),
        ({0: np.ones((ROWS, WIDTH), int)}, {}, "before must hold floats. Received: dtype int64"),
        ({1: np.ones((3, WIDTH))}, {}, rf"after must have {ROWS} rows. Received: shape \(3, {WIDTH}\)"),
        ({1: np.ones((ROWS, 3))}, {}, rf"the same shape. Received: \({ROWS}, {WIDTH}\) and \({ROWS}, 3\)"),
        ({2: SEEN.astype(int)}, {}, rf"seen must be a bool array of shape \({ROWS},\). .* dtype int64"),
        ({2: SEEN[1:]}, {}, rf"seen must .* Received: shape \({ROWS - 1},\)"),
        ({}, {"counts": np.ones(3)}, r"counts must .* Received: shape \(3,\)"),
        ({}, {"counts": -np.ones(ROWS)}, "counts must be .* >= 0"),
        ({}, {"loss": 0.5}, "loss must be a function .* Received: 0.5"),
        ({}, {"loss": lambda table: np.nan}, "must be a number. Received: nan for the table with factor 0"),
        ({}, {"loss": lambda table: [0.1, 0.9]}, r"must be a number. Received: \[0.1, 0.9\] for the table"),
    ],
)
def test_wrong_arguments_are_refused(arguments, named, message):
    """The message names the argument and what was received."""
    given = [*tables()[:2], SEEN]
    for place, value in arguments.items():
        given[place] = value
    with pytest.raises(ArgumentError, match=message):
        propagate_drift(*given, **named)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_tables_that_are_not_finite_are_refused(place, value):
    """The message names the table and the row."""
    given = list(tables()[:2])
    given[place][7, 1] = value
    with pytest.raises(ArgumentError, match=rf"{('before', 'after')[place]} must be finite. .* row 7"):
        propagate_drift(*given, SEEN)


def test_numbers_too_large_are_refused():
    """A displacement beyond float64, and a carried row beyond the dtype."""
    before, after, _ = tables()
    before[1], after[1] = 1.7e308, -1.7e308
    with pytest.raises(ArgumentError, match="too large to be subtracted"):
        propagate_drift(before, after, SEEN)
    before, after, _ = tables()
    large = 6e4 / np.abs(after).max()
    with pytest.raises(ArgumentError, match=r"must fit into float16. Received: .* row \d+ becomes too large"):
        propagate_drift(
            (before * large).astype("float16"), (after * large).astype("float16"), SEEN, loss=lambda table: 1.0
        )


def test_a_layer_in_and_a_layer_out():
    """The table before `fit` and after it, tried by validation loss, and installed: words never read move, the rest stays."""
    import keras

    from embkeras import AlignedMatrix, RowWiseAdam, Vocabulary, build_classifier, build_embedding

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(62, 4)).astype("float32")
    vocabulary = Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(60))])
    embedding = build_embedding(AlignedMatrix(values, vocabulary), trainable=True)
    model = build_classifier(embedding, 2, architecture="mean", units=8, dropout=0)
    model.compile(RowWiseAdam(0.05), "sparse_categorical_crossentropy", run_eagerly=True)
    ids = rng.integers(2, 40, (64, 3))  # ids from 40 on occur in no text
    labels = (values[ids, 0].mean(axis=1) > 0).astype(int)
    unseen = rng.integers(40, 62, (64, 3))
    counts = np.bincount(ids.ravel(), minlength=62)
    before = embedding.matrix()
    model.fit(ids, labels, epochs=6, verbose=0)
    after = embedding.matrix()

    def loss(table):
        embedding.assign_table(table)
        return model.evaluate(unseen, (values[unseen, 0].mean(axis=1) > 0).astype(int), verbose=0)

    carried = propagate_drift(before, after, counts > 0, counts=counts, loss=loss)
    embedding.assign_table(carried.table)
    assert carried.factor > 0 and carried.losses[carried.factor] < carried.losses[0]
    stay = (counts > 0) | (np.arange(62) == 0)
    assert embedding.matrix()[stay].tobytes() == after[stay].tobytes()
    assert (embedding.matrix()[40:] != after[40:]).any(axis=1).all()

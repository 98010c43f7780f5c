"""Which strategies leave a race after a round, and when it is over, by what they got right on the validation texts."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from embkeras.experiments.results import Record
from embkeras.experiments.statistics import ALPHA, Difference, pooled_spread, require

LEAST = 3  # runs of each strategy in the final round: the interval of two is too wide to say anything
_FAR = 0.001  # the alpha after one round, when nothing is known of the noise of training


def cost(records: Sequence[Record]) -> tuple[float, float]:
    """What a strategy costs: bytes stored to serve it, then parameters that train."""
    names = "stored_bytes", "trainable_parameters"
    return tuple(float(np.mean([record.measures[name] for record in records])) for name in names)  # type: ignore[return-value]


def leave(rounds: Mapping[str, Sequence[Record]], overlap: float = 0.0, *, folds: bool = False) -> dict[str, str]:
    """Who leaves, and why. At least two stay, so that the final round measures a difference.

    A strategy leaves if the 95% interval of its difference to the leader lies below 0. The noise of training comes from
    all strategies together, since few seeds say little of two alone (`pooled_spread`). After one round it is taken to be
    as large as that of the texts, and only what is behind by far leaves. A strategy that diverged leaves too.

    Args:
        rounds: for each strategy that is in the race its records, one a round, of the same rounds.
        overlap: as for `Difference.of_folds`.
        folds: each round has validation texts of its own.

    Returns:
        The reason, by name.
    """
    names = list(rounds)
    values = np.array([[record.validation.mean() for record in rounds[name]] for name in names])
    healthy = [not any(record.diverged for record in rounds[name]) for name in names]
    order = sorted(range(len(names)), key=lambda place: (not healthy[place], -values[place].mean(), place))
    count = values.shape[1]
    known = count > 1 and sum(healthy) > 1
    spread, freedom = pooled_spread(values[healthy]) if known else (math.nan, 0)
    leader, gone = rounds[names[order[0]]], {}
    for place in reversed(order[2:]):
        records = rounds[names[place]]
        if not healthy[place]:
            gone[names[place]] = f"round {count}: diverged"
            continue
        pairs = zip(leader, records, strict=True)
        if folds and known:
            mean = float(np.mean([one.validation.mean() - other.validation.mean() for one, other in pairs]))
            difference = Difference(mean, spread, count, freedom, 0.0, overlap)
        else:
            each = [one.validation.astype(float) - other.validation for one, other in pairs]
            texts = Difference.of_texts(np.concatenate(each)[None] if folds else np.stack(each))
            assumed = (spread, freedom) if known else (texts.testing, 1_000_000)
            difference = Difference(texts.mean, assumed[0], count, assumed[1], texts.testing)
        if difference.mean > difference.half_width(ALPHA if known else _FAR):
            gone[names[place]] = f"round {count}: {100 * difference.mean:.1f} points behind"
    return gone


def best_of(rounds: Mapping[str, Sequence[Record]], most: int) -> list[str]:
    """The strategies that go on where more are left than shall: the leader, the cheapest, and the next best.

    The cheapest goes on since a tie goes to it.

    Args:
        rounds: for each strategy its records.
        most: how many go on.

    Returns:
        Their names, in the order received.
    """
    accuracy = {
        name: float(np.mean([record.validation.mean() for record in records])) for name, records in rounds.items()
    }
    ranked = sorted(accuracy, key=lambda name: -accuracy[name])
    if len(ranked) <= most:
        return list(rounds)
    cheapest = min(ranked, key=lambda name: cost(rounds[name]))
    chosen = list(dict.fromkeys([ranked[0], cheapest, *ranked[1:]]))[:most]
    return [name for name in rounds if name in chosen]


def is_settled(
    final: Mapping[str, Sequence[Record]],
    leader: str,
    recommended: str,
    runs: int,
    rounds: Mapping[str, Sequence[Record]],
    overlap: float = 0.0,
    *,
    folds: bool = False,
) -> bool:
    """Whether the runs that are still to come would hardly change what is recommended.

    Each difference has a 95% prediction interval of what all runs will show, from what the first showed and the noise of
    training in all runs so far. It is settled if within these intervals none will be shown to be better than the one
    recommended, and those that are cheaper will still be shown to be worse than the leader (stochastic curtailment: Lan,
    Simon & Halperin 1982). With fewer than three runs, or two strategies, nothing is.

    Args:
        final: for each strategy of the final round its records so far, of the same seeds and folds.
        leader: the strategy with the best mean validation accuracy.
        recommended: what is recommended by them.
        runs: how many there would be of each strategy.
        rounds: for each strategy its records of the rounds before.
        overlap: as for `Difference.of_folds`.
        folds: each run has validation texts of its own.
    """
    done = len(final[leader])
    if done < LEAST or len(final) < 2:
        return False
    spread, freedom = _noise(final, rounds)
    reach = float(require("scipy.stats").t.isf(ALPHA / 2, freedom)) * spread * math.sqrt(1 / done - 1 / runs)

    def lead(first: str, second: str) -> Difference:
        pairs = zip(final[first], final[second], strict=True)
        each = [one.validation.astype(float) - other.validation for one, other in pairs]
        if folds:
            return Difference(float(np.mean([one.mean() for one in each])), spread, runs, runs - 1, 0.0, overlap)
        texts = Difference.of_texts(np.stack(each))
        return Difference(texts.mean, spread, runs, runs - 1, texts.testing)

    price = cost(final[recommended])
    for name in final.keys() - {recommended}:
        ahead = lead(name, recommended)
        if ahead.mean + reach > ahead.half_width():
            return False
        if cost(final[name]) < price:
            behind = lead(leader, name)
            if behind.mean - reach <= behind.half_width(ALPHA / (len(final) - 1)):
                return False
        elif cost(final[name]) == price and ahead.mean + reach > 0:
            return False
    return True


def _noise(*groups: Mapping[str, Sequence[Record]]) -> tuple[float, int]:
    """`pooled_spread` of the runs of several rounds: in each, of the strategies that it has most records of."""
    squares, freedom = 0.0, 0
    for group in groups:
        most = max(map(len, group.values()), default=0)
        whole = [found for found in group.values() if len(found) == most and not any(each.diverged for each in found)]
        if most > 1 and len(whole) > 1:
            spread, own = pooled_spread(np.array([[each.validation.mean() for each in found] for found in whole]))
            squares, freedom = squares + own * spread**2, freedom + own
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.inf, 1)

"""Single-line faults in the core modules: does a test fail for each of them?

Each fault is put into a copy of the package, and the tests that should notice it run. A fault that passes them is a
survivor: a test is missing.

python benchmarks/mutants.py --check            # only: can every fault still be applied?
python benchmarks/mutants.py --workers 2        # all of them; writes benchmarks/results/mutants.json
"""

import argparse
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any, NamedTuple

from machine import machine_line

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_name("results") / "mutants.json"
TIMEOUT = 400  # seconds for the tests of one fault; a fault that makes them hang counts as caught


class Mutant(NamedTuple):
    """One fault: in `file`, `old` (which occurs there once) becomes `new`; `tests` are arguments of pytest."""

    file: str
    old: str
    new: str
    tests: str


# file below embkeras/ -> (tests that cover it, faults)
FAULTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "drift/plots.py": (
        "tests/drift/test_plots.py",
        [
            ("if tokens is None else _chosen(report, kind, tokens)", "if True else _chosen(report, kind, tokens)"),
            (
                "report.table.loc[[row_of[token] for token in wanted]]",
                "report.table.loc[sorted(row_of[token] for token in wanted)]",
            ),
            ("for token in wanted if token not in row_of]", "for token in wanted if False]"),
            ("taken.append((low, low + size))", "pass"),
            ("hits += not (low > ax.bbox.min).all()", "hits += False"),
            ("ax.set_ylim(-0.6, rows + 0.4)", "pass"),
            (".replace(np.inf, np.nan)  # NaN: not known", ".replace(np.inf, 0).fillna(0)"),
        ],
    ),
    "text/from_keras.py": (
        "tests/text/test_from_keras.py -k quotes",
        [
            ("""r"[^\\w\\s'\\"]+(?:unk""", """r"[^\\w\\s]+(?:unk"""),
            ("""oov)[^\\w\\s'\\"]+", re.I""", """oov)[^\\w\\s]*", re.I"""),
        ],
    ),
    "../benchmarks/notebooks.py": (
        "tests/test_notebooks.py -k 'not runs'",
        [
            ('if find_spec("embkeras") is None:', "if True:"),
            ("if REPOSITORY else [])]", "if False else [])]"),
            ("for name in KEPT if name in here)", "for name in KEPT[:1] if name in here)"),
            (
                "if not any(pip_install(place) for place in places)",
                "if not all(pip_install(place) for place in places)",
            ),
            ('pip_install("--no-deps", *missing)', "pip_install(*missing)"),
            ("while len(lines) > 1 and not lines[1]:", "while False:"),
            ('if not line.startswith("[![Open in Colab]")]', "if line]"),
            ('if cell.cell_type == "code"][1:]', 'if cell.cell_type == "code"][:1]'),
            ("                if found:\n", "                if False:\n"),
        ],
    ),
    "text/sentence_pieces.py": (
        "tests/text/test_sentence_pieces.py",
        [
            ("in model.pieces[3:]]", "in model.pieces[2:]]"),
            ("library.models.Unigram(scored, names.index(unknown))", "library.models.Unigram(scored, 0)"),
            ("+| *[ {_SPACE}]+\\z", "+| +\\z"),
            ('(" {2,}", " ")', '(" {2,}", "")'),
            ('f"{end} " if more else ""', '""'),
        ],
    ),
    "training/workers/weighing.py": (
        "tests/test_workers.py -m thorough -k masked",
        [
            ("own * context.num_replicas_in_sync, total", "own, own"),
            ("tf.math.count_nonzero(masks[0])", "tf.size(masks[0])"),
        ],
    ),
    "training/workers/model.py": (
        "tests/training/workers/test_model.py",
        [
            ("if workers > 1:", "if workers > 2:"),
            ("and not layer.synchronized", "and False"),
            ("and name not in after_the_sum", "and name in after_the_sum"),
            ("if not weighing.used:", "if weighing.used:"),
        ],
    ),
    "training/workers/agreement.py": (
        "tests/test_workers.py",
        [
            ("_checksum(model.weights)", "_checksum(())"),
            ('"the number of epochs": context.epochs}', '"the number of epochs": 0}'),
            ("return _UNKNOWN if seed is None else seed", "return 0 if seed is None else seed"),
        ],
    ),
    "keras_compat/workers.py": (
        "tests/test_workers.py",
        [
            ("tf.expand_dims(value, 0), step(data)", "value, step(data)"),
        ],
    ),
    "drift/report.py": (
        "tests/drift/test_report.py",
        [
            ('"mean_cosine_distance": distance.mean()', '"mean_cosine_distance": distance.median()'),
            ('moved["relative_l2"].mean()', 'moved["relative_l2"].median()'),
            ('"loss", ascending=False', '"loss", ascending=True'),
            ('(table["similarity_before"] >= min_similarity)', '(table["similarity_before"] >= 0)'),
            ('table["count"] >= min_count', 'table["count"] > min_count'),
            ("& ~self.seen & ~self.moved", "& ~self.moved"),
            ("norm_b / norm_a", "norm_a / norm_b"),
        ],
    ),
    "serving/packed_matrices.py": (
        "tests/serving/test_packed_matrices.py",
        [
            ("axis=2) / 127)", "axis=2) / 120)"),
            ("steps[:, 1::2] << 4", "steps[:, 1::2] << 3"),
            ("        groups += tf.cast(least[0], tf.float32)[..., None]", "        pass"),
            ("np.rint(np.divide", "np.floor(np.divide"),
            ("if np.abs(groups).max(initial=0) > limit:", "if False:"),
        ],
    ),
    "serving/decoders.py": (
        "tests/serving/test_decoders.py",
        [
            ("(block[:, 0], block[:, 1])", "(block[:, 1], block[:, 0])"),
            ("if not error <= limit:", "if False:"),
            ("if version in existing and not overwrite:", "if False:"),
        ],
    ),
    "encoders/decoders/layers.py": (
        "tests/encoders/decoders/test_reading.py tests/encoders/decoders/test_generation.py",
        [
            ("seen = asked_segments == segments[:, None, :]", "seen = asked_segments >= segments[:, None, :]"),
            ("(asked_segments != 0)", "(asked_segments == 1)"),
            ("asked[:, None] >= places", "asked[:, None] > places"),
            ("self.head_width**-0.5", "1"),
            ("second * cosines + first * sines", "second * cosines - first * sines"),
            (
                "query = _turned(self._by_head(through(self.query, x)), cosines, sines)",
                "query = self._by_head(through(self.query, x))",
            ),
            ("ops.concatenate([ops.cast(kept[1], value.dtype), value], axis=2)", "value + 0 * kept[1][:, :, :1]"),
        ],
    ),
    "encoders/decoders/gguf_files.py": (
        "tests/encoders/decoders/test_reading.py",
        [
            ("return value.reshape(-1, head // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)", "return value"),
            ("if self.shapes[name] != shape:", "if False:"),
            ("        if others:", "        if False:"),
            ('"smollm": [_DIGITS, _byte_level()]', '"smollm": [_byte_level()]'),
            ("if not np.isfinite(value).all():", "if False:"),
        ],
    ),
    "encoders/decoders/generation.py": (
        "tests/encoders/decoders/test_generation.py",
        [
            ("running &= ~np.isin(chosen, stop_ids)", "running = ~np.isin(chosen, stop_ids)"),
            ("np.where(running, chosen, padding_id)", "chosen"),
            ("before >= top_p", "before > 1 - top_p"),
            ("chances[:, top_k:] = 0", "chances[:, top_k + 1 :] = 0"),
            ("ordered[:, :1]) / temperature)", "ordered[:, :1]) * temperature)"),
            ("if longest + max_new_tokens > read.max_length:", "if longest > read.max_length:"),
        ],
    ),
    "encoders/decoders/instructions.py": (
        "tests/encoders/decoders/test_instructions.py",
        [
            ("segments[row, start:end] = number", "segments[row, start:end] = 1"),
            ("labels[row, answered - 1 : end - 1] = answer", "labels[row, answered:end] = answer"),
            ("weights[row, answered - 1 : end - 1] = 1", "weights[row, start : end - 1] = 1"),
            ("inside=True) if joined else", "inside=True) if False else"),
            ("return ids, ends[: stop + 1]", "return ids, ends[:stop]"),
            ("if not set(read.stop_ids).isdisjoint(read.encode(value)):", "if False:"),
            ("room[place] -= needed", "room[place] -= needed + 1"),
            ("* packed.weights[part])", ")"),
        ],
    ),
    "encoders/decoders/stepping.py": (
        "tests/encoders/decoders/test_generation.py",
        [
            ("self.places(ids, start=start)", "self.places(ids, start=0)"),
            ("tokens * tf.range(tf.shape(tokens)[1])", "tokens * 0"),
            (" + tf.maximum(in_front - start, 0)", ""),
        ],
    ),
    "drift/geometry.py": (
        "tests/drift/test_geometry.py",
        [
            ("np.asarray(table[rows], np.float64) - mean", "np.asarray(table[rows], np.float64)"),
            ("float(np.linalg.norm(both)) ** 2 / scale", "float(np.linalg.norm(both)) / scale"),
            ("_steps(before, after, ids[part]) - centre", "_steps(before, after, ids[part])"),
        ],
    ),
    "drift/neighbours.py": (
        "tests/drift/test_neighbours.py",
        [
            ("(then <= topn)", "(then < topn)"),
            ("similarity[:, ~usable[part]] = -2", "pass"),
            ("similarity[own, rows[own] - part.start] = -2", "pass"),
            (
                "unit_rows(table[column])) for column in near.T], axis=1) + _SAME",
                "unit_rows(table[column])) for column in near.T], axis=1)",
            ),
            ("part.start + column", "column"),
            ("known.dropna() * weights", "known.dropna()"),
        ],
    ),
    "drift/word_pairs.py": (
        "tests/drift/test_word_pairs.py",
        [
            ("for _, score in found]).rank()", "for _, score in found])"),
            ("word.lower(), -1", "word, -1"),
            ("elif begun or len(fields) < 3:", "elif len(fields) < 3:"),
        ],
    ),
    "encoders/spans.py": (
        "tests/encoders/test_spans.py",
        [
            ("ids[np.isin(ids, list(self.special))] = self.vocabulary.oov_id", "pass"),
            ("(characters[:, 1] > start)", "(characters[:, 1] >= start)"),
            ("(characters[:, 0] < start + len(text))", "(characters[:, 0] <= start + len(text))"),
            ("0 <= last < begin + room", "0 <= last <= begin + room"),
            ("stride or -(-room // 2)", "stride or room"),
            ("not any(end for _, _, _, end in own)", "not own"),
            ("better = value > best", "better = value >= best"),
            ("np.where(legal[block], start[block], 0)", "start[block]"),
            ("range(min(most, width))", "range(width)"),
            ("float(nothing[own].min())", "float(nothing[own].max())"),
            ("no_answer > threshold", "no_answer >= threshold"),
            ("begin + len(text) - len(text.lstrip())", "begin"),
        ],
    ),
    "encoders/squad.py": (
        "tests/encoders/test_squad.py",
        [
            ("-float(bool(texts[place]))", "-1.0"),
            ("gold = [each for each in gold if normalized_answer(each)] or", "gold = gold or"),
            ("2 * precision * recall", "precision * recall"),
            ("float(not answerable) if doubt > threshold", "float(not answerable) if doubt >= threshold"),
            ("text.lower().translate(_PUNCTUATION)", "text.translate(_PUNCTUATION)"),
            ("max(f1(text, each, rules) for each in gold)", "f1(text, gold[0], rules)"),
        ],
    ),
    "encoders/layers.py": (
        "tests/encoders/test_layers.py tests/encoders/test_prompts.py tests/serving/test_spans.py",
        [
            ("[[0, 0], [self.in_front, 0]], constant_values=True)", "[[0, 0], [self.in_front, 0]])"),
            (
                "before = ops.pad(before, [[0, 0], [self.in_front, 0]])",
                "before = ops.pad(before, [[0, 0], [0, self.in_front]])",
            ),
            ("        return vectors[:, self.count :]", "        return vectors[:, : -self.count]"),
            (", vectors], axis=1)", ", vectors + own[:, :1]], axis=1)"),
            ("for id_ in self.special_ids:", "for id_ in self.special_ids[:1]:"),
            ("ops.where(allowed, scores[..., self.column], -1e9)", "scores[..., self.column]"),
            ("return ops.logical_or(behind, first)", "return behind"),
        ],
    ),
    "encoders/heads.py": (
        "tests/serving/test_spans.py",
        [("PlaceProbabilities(column, name=each)", "PlaceProbabilities(0, name=each)")],
    ),
    "serving/spans.py": (
        "tests/serving/test_spans.py",
        [
            ("LENGTH if most is None else min(LENGTH, most)", "LENGTH"),
        ],
    ),
    "text/vocabulary.py": (
        "tests/text/test_vocabulary.py",
        [
            ("else inside[len(inside) - room :]", "else inside[:room]"),
            ("width = length or max([1,", "width = length or max([0,"),
            ("count >= min_count", "count > min_count"),
            ("kept[: max_tokens - 2]", "kept[:max_tokens]"),
            ("hash_bucket(token, buckets) if buckets > 1 else 0", "0"),
            ("left_out = total -", "left_out = 0 *"),
        ],
    ),
    "text/labelled.py": (
        "tests/text/test_labelled.py",
        [
            (
                "(rows[held_out:], rows[tested:held_out], rows[:tested])",
                "(rows[held_out:], rows[:tested], rows[tested:held_out])",
            ),
            ("rng.permutation(np.flatnonzero(data.labels == index))", "np.flatnonzero(data.labels == index)"),
        ],
    ),
    "training/schedule/progress.py": (
        "tests/training/schedule/test_progress.py",
        [
            ("value < best - self.min_delta", "value < best + self.min_delta"),
            ("value > best + self.min_delta", "value > best"),
            ("self.wait += 1", "self.wait += 2"),
            ("every[place].assign(value)", "every[place].assign(every[place])"),
        ],
    ),
    "training/schedule/rates.py": (
        "tests/training/schedule/test_rates.py",
        [
            ("rate.factor * factor", "factor"),
            ("self.schedule(since) * self.factor", "self.schedule(since)"),
        ],
    ),
    "training/schedule/flags.py": (
        "tests/training/schedule/test_flags.py tests/training/schedule/test_actions.py",
        [
            ("among = all if phase.train is None else any", "among = any"),
            ("weight.trainable = place.layer.trainable", "pass"),
        ],
    ),
    "training/optimizers/row_wise.py": (
        "tests/training/optimizers/test_row_wise.py tests/training/optimizers/test_rules.py",
        [
            ("tf.math.unsorted_segment_sum", "tf.math.unsorted_segment_max"),
            ("+ 1 - _read(self._births[index], None)", "+ 1"),
            ("tf.cast(decay, value.dtype) * rate", "tf.cast(decay, value.dtype)"),
            (
                "value - (before - _read(anchor, rows))",
                "value + (before - _read(anchor, rows))",
            ),
            ("tf.where(length > limit,", "tf.where(length > 2 * limit,"),
            ("anchor + step * (limit / length)", "step * (limit / length)"),
            ("unbounded_rows(variable) | (lengths == 0)", "lengths == 0"),
        ],
    ),
    "training/optimizers/multipliers.py": (
        "tests/training/optimizers/test_multipliers.py",
        [
            ("if places.get(key) is None:", "if True:"),
            ("if self._paths.count(path) > 1:", "if False:"),
        ],
    ),
    "training/optimizers/rules.py": (
        "tests/training/optimizers/test_rules.py",
        [
            ("(tf.square(gradient) - v) * (1 - self.beta_2)", "(tf.square(gradient) - v) * (1 - self.beta_1)"),
            ("tf.sqrt(total + self.epsilon)", "tf.sqrt(total) + self.epsilon"),
            ("change - m * self.momentum if self.nesterov else -m", "-m"),
        ],
    ),
    "training/frozen_trunk/cut.py": (
        "tests/training/frozen_trunk/test_cut.py",
        [
            ("if id(each) in light), maker)", "if False), maker)"),
            ("in below | light for each", "in below for each"),
            ("or _draws(call.operation):", "or False:"),
            ("light.add(id(call))", "below.add(id(call))"),
        ],
    ),
    "training/resume/data_order.py": (
        "tests/training/resume/test_data_order.py",
        [("tf.stack([tf.constant(seed, tf.int64), epoch.read_value()])", "tf.constant([seed, 0], tf.int64)")],
    ),
    "training/resume/backup.py": (
        "tests/training/resume/test_backup.py",
        [
            ('"epoch": epoch + 1,', '"epoch": epoch,'),
            ('set_random_states(content["random"])', "pass"),
            ("(epoch + 1) % self._backup.every", "epoch % self._backup.every"),
        ],
    ),
    "tables/builders.py": (
        "tests/tables/test_builders.py -k an_architecture",
        [
            ("features = architecture(vectors)", "features = MaskedMean()(vectors)"),
            ("if own and units is not None:", "if False:"),
            ("if wrong.any():", "if False:"),
            ("wrong = ~(apart <= 0.01", "wrong = (apart > 0.01"),
            ("len(features.shape) != 2", "False"),
            ("not isinstance(architecture, type)", "True"),
        ],
    ),
    "tables/pooling.py": (
        "tests/tables/test_pooling.py",
        [
            ("ops.arange(1, ops.shape(mask)[1] + 1)", "ops.arange(ops.shape(mask)[1])"),
            ("lengths - convolution.kernel_size[0] + 1", "lengths - convolution.kernel_size[0]"),
            ("ops.where(kept, values, ops.zeros((), wide))", "values"),
        ],
    ),
    "tables/storage.py": (
        "tests/tables/test_storage.py",
        [
            ("np.rint(rows / scales[:, None])", "np.trunc(rows / scales[:, None])"),
            ("scales[scales == 0] = 1", "scales[scales == 0] = 0"),
        ],
    ),
    "vectors/aligned.py": (
        "tests/vectors/test_aligned.py",
        [
            ("words &= counts > 0", "words &= counts >= 0"),
            ("counts[self.found].sum() / counts.sum()", "counts[words].sum() / counts.sum()"),
        ],
    ),
    "vectors/align.py": (
        "tests/vectors/test_align.py",
        [
            ("squares / len(found) - mean**2", "squares / len(found)"),
            ("values[vocabulary.padding_id] = 0\n    return own", "pass\n    return own"),
            ("islice(spellings(exact[id_], fallbacks), 1, None)", "islice(spellings(exact[id_], fallbacks), 2, None)"),
            ("loaded is not None and spelling not in loaded", "False"),
        ],
    ),
    "vectors/words.py": (
        "tests/vectors/test_words.py",
        [("            if raw == there:\n", "            if True:\n")],
    ),
    "vectors/origins.py": (
        "tests/vectors/test_origins.py",
        [
            ("        self._codes[self._special] = self._names.setdefault(SPECIAL, len(self._names))\n", ""),
            ("return len(self) == len(other) and all(", "return all("),
        ],
    ),
    "vectors/io/rows.py": (
        "tests/vectors/io/test_rows.py",
        [
            ("            if word in rows:\n", "            if False:\n"),
            ("self.duplicates = len(repeated)", "self.duplicates = 0"),
            ('"rows": read + 1', '"rows": read'),
            ("offset=begin - skipped)", "offset=begin)"),
            ("begin, size = sum(self._used) * row,", "begin, size = sum(self._used[:-1]) * row,"),
        ],
    ),
    "vectors/io/registry.py": (
        "tests/vectors/io/test_registry.py -k table_is_not_in_memory",
        [("with tables_in(next(place for place in path.absolute().parents if place.is_dir())):", "if True:")],
    ),
    "vectors/io/reading.py": (
        "tests/vectors/io/test_text.py",
        [("mark = len(BOM) if head.startswith(BOM) else 0  # some", "mark = 0  # some")],
    ),
    "vectors/io/safetensors_file.py": (
        "tests/vectors/io/test_safetensors_file.py",
        [("written_with != str(_crc(words))", "written_with == ''")],
    ),
    "vectors/io/store.py": (
        "tests/vectors/io/test_store.py",
        [
            ("crc = zlib.crc32(block.data, crc)", "crc = zlib.crc32(block.data)"),
            ("    np.cumsum(offsets, out=offsets)\n", ""),
        ],
    ),
    "vectors/io/digits.py": (
        "tests/vectors/io/test_digits.py",
        [
            ("_EXACT = 2.0**53", "_EXACT = 2.0**63"),
            ("upper * 10**8", "upper * 10**7"),
            ("odd = (count < 1) | (count > _MOST)", "odd = (count < 0) | (count > _MOST)"),
        ],
    ),
    "serving/inputs.py": (
        "tests/serving/test_inputs.py",
        [
            ("(ids < 0) | (ids >= self.size)", "(ids < 0) | (ids > self.size)"),
            ("each.name: tf.where(empty, each.oov,", "each.name: tf.where(~empty, each.oov,"),
        ],
    ),
    "serving/packing.py": (
        "tests/serving/test_export.py -k fixed_length",
        [("refused_where(lengths > most, lengths", "refused_where(lengths >= most, lengths")],
    ),
    "experiments/statistics.py": (
        "tests/experiments/test_statistics.py",
        [
            ("np.arange(len(values), 0, -1)", "len(values)"),
            ("np.maximum.accumulate(values[order]", "np.asarray(values[order]"),
            ("math.sqrt(1 / self.runs + self.overlap)", "math.sqrt(1 / self.runs)"),
            ("runs=runs, freedom=runs - 1", "runs=runs"),
            ("math.sqrt(2 * float((rest**2)", "math.sqrt(float((rest**2)"),
            ("np.abs(gaps).sum()", "abs(gaps.sum())"),
        ],
    ),
    "experiments/rounds.py": (
        "tests/experiments/test_rounds.py",
        [
            ("ALPHA if known else _FAR", "ALPHA"),
            ("order[2:]", "order[1:]"),
            ("[ranked[0], cheapest, *ranked[1:]]", "ranked"),
            ("values[healthy]) if known", "values[healthy] / 3) if known"),
            ("ahead.mean + reach > ahead.half_width()", "ahead.mean > ahead.half_width()"),
            ("behind.mean - reach <=", "behind.mean <="),
            ("elif cost(final[name]) == price and", "elif False and"),
            ("_noise(final, rounds)", "_noise(final)"),
            ("squares + own * spread**2", "squares + spread**2"),
        ],
    ),
    "experiments/results.py": (
        "tests/experiments/test_results.py",
        [
            ("self._file.truncate(whole)", "pass"),
            ("fcntl.flock(", "print("),
            ("bits[:count]", "bits[: count - 1]"),
            ("if form != ours", "if not form"),
            ("if others:", "if len(others) > 2:"),
        ],
    ),
    "experiments/advice.py": (
        "tests/experiments/test_advice.py",
        [
            ("*cost(self._runs[name]), self", "self"),
            ("name not in self.few_labels, ", ""),
            ('self._difference(best, other, "validation")', 'self._difference(best, other, "test")'),
            (
                "max(fold, key=lambda record: record.validation.mean())",
                "max(fold, key=lambda record: record.test.mean())",
            ),
            ("ALPHA / max(len(others), 1)", "ALPHA"),
        ],
    ),
    "experiments/curves.py": (
        "tests/experiments/test_curves.py",
        [
            ("ahead = ahead and difference", "ahead = difference"),
            ("difference.mean > 0 and p_value", "p_value"),
            ("len(others) * difference.p_value", "difference.p_value"),
            ("set(self.texts), reverse=True)", "set(self.texts))"),
            ("own if seed in base]", "own]"),
        ],
    ),
    "experiments/power_law.py": (
        "tests/experiments/test_power_law.py",
        [
            ("high <= _FAR * most", "high <= _FAR * most * 1e9"),
            (" / rng.chisquare(freedom, _DRAWS)", " / 1e6 + np.zeros(_DRAWS)"),
            ("b * most**-c - points", "b * most**-c - 0.01"),
            ("best = np.where(better, apart, best)", "pass"),
        ],
    ),
    "experiments/moved.py": (
        "tests/experiments/test_moved.py",
        [
            ("self._before or self._found()", "self._found()"),
            ('each["l2"].to_numpy() != 0', 'each["l2"].to_numpy() >= 0'),
            ("id(each) not in tables for each", "True for each"),
            ("(np.array(each.kernel) for each in adapted)", "(np.array(stock_kernel(each)) for each in adapted)"),
        ],
    ),
    "experiments/race.py": (
        "tests/experiments/test_race.py",
        [
            ("if seed not in set(last)", ""),
            ("runner.allow(0.5)", "runner.allow(1.0)"),
            ('flag(stop_early, "stop_early") and rounds > 0', 'flag(stop_early, "stop_early")'),
            ("if stop_early and len(final) < wanted", "if False and len(final) < wanted"),
            ("== len(strategies)]", ">= 1]"),
            ("self._file.add(record)", "pass"),
            ("layers=layers_named(chosen)", "layers=()"),
            ("-(-len(alive) // 2)", "len(alive)"),
            ("labelled < FEW", "labelled <= FEW"),
            ("key=lambda strategy: not strategy.few_labels", "key=lambda strategy: strategy.few_labels"),
            ("stop_early and not few", "stop_early"),
        ],
    ),
    "training/class_means.py": (
        "tests/training/test_class_means.py",
        [
            ("2 * sharpness * means.T", "sharpness * means.T"),
            ("weights[:, None] * features)\n    totals", "features)\n    totals"),
            ("sums[labels] - weights[:, None] * features", "sums[labels]"),
            ("targets += (1 / (texts", "targets += 0 * (1 / (texts"),
            ("(texts[labels] + 1) / (texts[labels] + 2)", "1"),
            ("last.bias.assign(squares.min() - squares)", "pass"),
        ],
    ),
    "experiments/strategies.py": (
        "tests/experiments/test_strategies.py",
        [
            ("if self.prompts is None else read", "if True else read"),
            ("fit=fit_class_means, epochs", "epochs"),
        ],
    ),
    "experiments/workers.py": (
        "tests/experiments/test_race.py tests/experiments/test_workers.py",
        [
            ("if wrong or seconds_left() == 0:", "if seconds_left() == 0:"),
            ("raise failed(job, error, ended) from error", "raise failed(job, error, ()) from error"),
            ("if seconds_left() == 0:\n            return", "if False:\n            return"),
        ],
    ),
    "experiments/data.py": (
        "tests/experiments/test_data.py tests/experiments/test_curves.py",
        [
            ('order = order[np.argsort(labels[order], kind="stable")]', "order = order"),
            ("(place + 1) % of", "place + 1"),
            ("(asked != 0) & ~np", "~np"),
            ("max(least, round(share * total))", "round(share * total)"),
            ("least=0)).permutation(total)", "least=0) * 0).permutation(total)"),
            ("least=0)).permutation(len(labels))", "least=0) * 0).permutation(len(labels))"),
        ],
    ),
    "app/settings.py": (
        "tests/app/test_settings.py tests/app/test_commands.py -k strategy",
        [('"phased" if self.architecture == "lstm"', '"phased" if self.architecture == "cnn"')],
    ),
    "serving/export.py": (
        "tests/serving/test_export.py",
        [("max(existing, default=0) + 1", "max(existing, default=0) + 2")],
    ),
    "encoders/tuned.py": (
        "tests/encoders/test_tuned.py",
        [
            ("if name not in digests or digest(values) != digests[name]:", "if name not in digests:"),
            ('metadata["contents"] != _contents(tensors, covered)', 'metadata["contents"] == ""'),
            ("if found[name] != known]", "if found[name] != known and name in tensors]"),
            ("base_digest(weights[name]) or known if name in tensors", "known if name in tensors"),
            ("if name not in known]", "if name is None]"),
        ],
    ),
    "encoders/parts.py": (
        "tests/encoders/test_tuned.py",
        [("if before is not None or after is None:", "if after is None:")],
    ),
    "encoders/peft.py": (
        "tests/encoders/test_peft.py",
        [
            ('(math.sqrt(rank) if config.get("use_rslora") else rank)', "rank"),
            ("            alpha = value\n", "            alpha = alpha\n"),
            ("and base_digest(weight) is None]", "and False]"),
            ("elif name not in _FOLLOWED and value not in _OFF:", "elif name not in config:"),
            ('/lora_kernel_b": b.T}', '/lora_kernel_b": b.reshape(rank, -1)}'),
        ],
    ),
    "encoders/bottlenecks.py": (
        "tests/encoders/test_bottlenecks.py tests/encoders/test_adapters.py",
        [
            ("        return inputs + self.up(self.down(inputs))", "        return self.up(self.down(inputs))"),
            (
                "super().call(inputs + self.up(self.down(super().call(inputs))))",
                "super().call(inputs + self.up(self.down(inputs)))",
            ),
            ("                release(each)\n", "                keep(each)\n"),
            ("        else:\n            _keep_all(adapter)", "        else:\n            pass"),
            ("        after.assign(before)", "        pass"),
            ('    use(layer, settings["in_use"])', "    use(layer, None)"),
            ("            if known != (name or each.used_adapter):", "            if not known:"),
        ],
    ),
    "encoders/prompts.py": (
        "tests/encoders/test_prompts.py",
        [("return np.resize(found, count)", "return np.repeat(found, count)[:count]")],
    ),
}


def mutants(pattern: str = "") -> Iterator[Mutant]:
    """The faults, for files whose path contains `pattern`."""
    for file, (tests, faults) in FAULTS.items():
        for old, new in faults:
            if pattern in file:
                yield Mutant(file, old, new, tests)


def stale(mutant: Mutant) -> str | None:
    """Why a fault can't be applied, or None."""
    path = ROOT / "embkeras" / mutant.file
    if not path.is_file():
        return "no such file"
    count = path.read_text("utf-8").count(mutant.old)
    return None if count == 1 else f"the old text occurs {count} times"


def outcome(mutant: Mutant, copy: Path) -> str:
    """`caught`, `caught (timeout)`, `SURVIVED` or `INVALID` (the tests couldn't start)."""
    path = copy / "embkeras" / mutant.file
    original = path.read_text("utf-8")
    path.write_text(original.replace(mutant.old, mutant.new), "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *shlex.split(mutant.tests),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "caught (timeout)"
    finally:
        path.write_text(original, "utf-8")
    return {0: "SURVIVED", 1: "caught"}.get(done.returncode, f"INVALID ({done.stdout[-200:]})")


def run(chosen: list[Mutant], workers: int) -> None:
    """Try each fault, and put its outcome into the result file at once."""
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(workers):
            copy = Path(folder, str(number))
            for name in ("embkeras", "tests", "notebooks"):
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("setup.cfg", "pyproject.toml", "README.md"):
                shutil.copy(ROOT / name, copy / name)
            (copy / "benchmarks").mkdir()
            shutil.copy(ROOT / "benchmarks" / "notebooks.py", copy / "benchmarks")
            copies.put(copy)
        lock = Lock()

        def one(mutant: Mutant) -> None:
            copy, begin = copies.get(), time.perf_counter()
            try:
                result = outcome(mutant, copy)
            finally:
                copies.put(copy)
            seconds = time.perf_counter() - begin
            with lock:
                save(mutant, result, seconds)
                print(f"{result:9} {seconds:5.0f} s  {mutant.file}: {mutant.old} -> {mutant.new}", flush=True)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, chosen))


def results() -> list[dict[str, Any]]:
    """The known outcomes of the faults listed above."""
    known = json.loads(RESULT.read_text("utf-8"))["faults"] if RESULT.is_file() else []
    entries = {(each["file"], each["old"], each["new"]): each for each in known}
    return [entries[mutant[:3]] for mutant in mutants() if mutant[:3] in entries]


def save(mutant: Mutant, result: str, seconds: float) -> None:
    """Put one outcome into the result file, in place of an earlier one of the same fault."""
    entry = {"file": mutant.file, "old": mutant.old, "new": mutant.new, "result": result}
    entry |= {"seconds": round(seconds), "date": datetime.date.today().isoformat()}
    entries = {(each["file"], each["old"], each["new"]): each for each in results()} | {mutant[:3]: entry}
    faults = [entries[each[:3]] for each in mutants() if each[:3] in entries]
    survivors = [each for each in faults if not each["result"].startswith("caught")]
    summary = {"machine": machine_line("tensorflow", "keras", "numpy"), "listed": len(list(mutants()))}
    contents = {
        "summary": summary | {"tested": len(faults), "survivors": len(survivors)},
        "survivors": survivors,
        "faults": faults,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(contents, indent=1) + "\n", "utf-8")


def main() -> int:
    """Apply the faults and write the result; 1 if one survives or can't be applied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that every fault can be applied")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path contains TEXT")
    parser.add_argument("--resume", action="store_true", help="leave out faults that the result file has already")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="faults tested at a time (1)")
    options = parser.parse_args()
    chosen = list(mutants(options.only))
    problems = [f"{mutant.file}: {reason}: {mutant.old}" for mutant in chosen if (reason := stale(mutant))]
    if problems or options.check:
        print("\n".join(problems) or f"{len(chosen)} faults can be applied")
        return int(bool(problems))
    known = {(each["file"], each["old"], each["new"]) for each in results()}
    run([mutant for mutant in chosen if not (options.resume and mutant[:3] in known)], options.workers)
    survivors = [each for each in results() if not each["result"].startswith("caught")]
    print(f"{len(survivors)} faults survive; see {RESULT}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())

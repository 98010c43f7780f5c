"""Figures that a page quotes are those of the result file that its script wrote."""

import importlib.util
import itertools
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results/"


class Quote(NamedTuple):
    """What a page says, and pieces of a result file, in its order; figures in place of each {} of these fill the page's."""

    page: str
    written: str
    file: str
    measured: tuple[str, ...]


def quote(page: str, written: str, file: str, *measured: str) -> Quote:
    """A quote of pieces."""
    return Quote(page, written, file if "/" in file else RESULTS + file, measured)


ENCODERS = [
    quote(
        "docs/guides/encoders.md",
        f"| {written} | {{}} | {{}} | {{}} |",
        "encoders.md",
        f"| {way} | {{}} (3) | {{}} (3) | {{}} (3) |",
    )
    for written, way in {
        "head": "head | embkeras",
        "top block and head": "top | embkeras",
        "LoRA in the upper half": "LoRA | embkeras",
        "all, rates 0.8 a block": "all | embkeras",
        "GloVe 50d, cnn, shared map": "GloVe 50d, shared map, CNN | embkeras",
    }.items()
]
RECIPE = [
    quote(
        "docs/guides/which-recipe.md",
        f"| {architecture} | {written} | {{}} | {{}} | {{}} |",
        "recipe.md",
        *(f"| {architecture} | {size} | {way} | {cells} | {{}} |" for size in (200, 1000, "all")),
    )
    for architecture, written, way, cells in [
        ("cnn", "shared map and rows, rescaled to 0.1", "map+rows", 25),
        ("cnn", "rescaled to 0.1", "rescaled 0.1", 25),
        ("cnn", "frozen, unfrozen at epoch 3", "phased", 25),
        ("cnn", "frozen", "static", 25),
        ("cnn", "random vectors", "random", 25),
        ("mean", "shared map and rows, rescaled to 0.1", "map+rows", 25),
        ("mean", "rescaled to 0.2", "rescaled 0.2", 25),
        ("mean", "stock, its drift carried to unread words", "stock + carry", 25),
        ("mean", "frozen, unfrozen at epoch 3", "phased", 25),
        ("mean", "frozen", "static", 25),
    ]
]
FEW_LABELS = [
    quote(
        "docs/guides/encoders.md",
        f"| {written} | {{0}} | {{2}} | {{4}} | {{1}} | {{3}} | {{5}} | {{6}} | {{7}} |",
        "parameter_efficient.md",
        "16 texts (in brackets: seeds)",
        f"| {way} | embkeras | {{}} (3) | {{}} (3) |",
        f"| {way} | embkeras | {{}} (3) | {{}} (3) |",
        f"| {way} | embkeras | {{}} (3) | {{}} (3) | {{}} | {{}} |",
    )
    for written, way in {
        "the nearest class mean": "class means",
        "the head": "head",
        "8 prompts and the head": "prompts",
        "biases and the head": "biases",
        "LoRA and the head": "LoRA",
        "adapters and the head": "adapters",
        "all": "all",
    }.items()
]
ADVICE = "2 rounds, at most 2 finalists (default) | {}% | {}% | {}% | {}% | "
QUOTES = [
    quote(
        "README.md",
        "stock Adam takes {} times as long with a table of 400,000 x 100, {} times with 1,000,000 x 100",
        "train_step.md",
        "400,000 x 100: stock Adam takes {}x",
        "1,000,000 x 100: stock Adam takes {}x",
    ),
    quote(
        "docs/guides/keras-traps.md",
        "with a table of 1,000,000 x 100 a step takes {} times as long",
        "train_step.md",
        "1,000,000 x 100: stock Adam takes {}x",
    ),
    quote(
        "CHANGELOG.md",
        "at 1,000,000 x 100 and x 300 ({2} and {5}); at most 0.8 times PyTorch's time at 100,000 x 100 and 1,000,000 x 300 "
        "({1} and {6}); at most 2.5 times a bare gather and scatter at 1,000,000 x 100 and x 300 ({4} and {7}); 1.3 times the "
        "time when the table grows from 10,000 to 1,000,000 rows ({8} at width 100;",
        "train_step.md",
        "100,000 x 100: stock Adam takes {}x the time; {}x",
        "1,000,000 x 100: stock Adam takes {}x the time; {}x the time of torch; {}x",
        "1,000,000 x 300: stock Adam takes {}x the time; {}x the time of torch; {}x",
        "d = 100: V = 1,000,000 takes {}x",
    ),
    quote("README.md", "| {} points of accuracy with 1,000 texts", "recipe.md", "| cnn | 1000 | map+rows | 25 | {} /"),
    quote(
        "README.md",
        "| {1} tables on disk where `model.export` writes {0}; {2} with int8 |",
        "serving.md",
        "| C API | model.export | {} (1.00) |",
        "| C API | embkeras, float32 | {} (",
        "| C API | embkeras, int8 | {} (",
    ),
    quote(
        "docs/guides/migrating.md",
        "The file is parsed {} times as fast (400,000 x 100)",
        "load_vectors.md",
        "| text, 400,000 x 100 | tutorial_loop | 9.259 / 9.395 | {} |",
    ),
    quote(
        "docs/guides/migrating.md",
        "filling the layer takes {1} times the table's memory instead of {0} (",
        "memory.md",
        "| fill | stock, weights=[m] | 5.07 | {} |",
        "| fill | build_embedding | 1.27 | {} |",
    ),
    quote(
        "docs/guides/keras-traps.md",
        "needs {0} times the table's memory | {1} times |",
        "memory.md",
        "| fill | stock, weights=[m] | 5.07 | {} |",
        "| fill | build_embedding | 1.27 | {} |",
    ),
    quote(
        "CHANGELOG.md",
        "({0} at x 100, {1} at x 300), and gzip in 1.2 times the decompression, which alone takes {2} of our time at x 100 and "
        "{3} at x 300.",
        "load_vectors.md",
        "| words, 400,000 x 100 | gensim_text | 36.63 / 38.5 | {} |",
        "| words, 400,000 x 300 | gensim_text | 125.3 / 127.2 | {} |",
        "| gzip, 400,000 x 100 | decompression | 1.406 / 1.44 | {} |",
        "| gzip, 400,000 x 300 | decompression | 4.454 / 4.621 | {} |",
    ),
    quote(
        "CHANGELOG.md",
        "({1} with the {3} of a table of 100 rows), and 0.5 of stock Keras' with TensorFlow's own in both ({2}).",
        "serving.md",
        "| C API | model.export | 2.00 (1.00) | {} (1.00) | 2.19 (1.00) |",
        "| C API | embkeras, float32 | 1.00 (0.50) | 0.70 (1.18) | {} ({}) |",
        "| C API | embkeras, 100 rows | 0.00 (0.00) | 0.62 (1.04) | {} (",
    ),
    quote(
        "docs/guides/which-recipe.md",
        "| recommends the same as the full grid | {0}% of the races | {4}% | | recommends one of those that the full grid "
        "can't tell from its best | {1}% | {5}% | | needs of the grid's time | {2}% | {6}% |",
        "advice.md",
        ADVICE,
        ADVICE,
    ),
    quote(
        "README.md",
        "in {2}% of that comparison's time with five seeds, in {6}% with ten (10 trials)",
        "advice.md",
        ADVICE,
        ADVICE,
    ),
    quote(
        "docs/guides/decoders.md",
        "{} tokens per second of the processor, {} without kept keys and values, transformers {},",
        "decoder.md",
        "| `generate` | {} |",
        "| `generate(cached=False)` | {} |",
        "float32 | {} |",
    ),
    quote("docs/guides/decoders.md", "makes {}, four times as many", "decoder.md", "the file's 4 bits | {} |"),
    quote(
        "docs/guides/decoders.md",
        "perplexity of held-out answers from {1} to {2} with LoRA in the upper half of the blocks ({0} s of the processor). "
        "With 8 soft prompts in front of a frozen decoder (`read.with_prompts(8)`) it falls to {6}; "
        "only {3} numbers train, in {4} s",
        "decoder.md",
        "2, 0.002 | {} | {} | {} |",
        "| 8 prompts | {} | 8, 0.03 | {} | {} | {} |",
    ),
    quote(
        "docs/guides/encoders.md",
        "frozen {0}% with GloVe 50d, {2}% at 128 wide, {1}% at 384 wide",
        "word_table.md",
        "| GloVe 6B 50d | 7,261 | 1.6 | {} |",
        "| encoder, 384 wide | 8,134 | 12.5 | {} |",
        "| encoder, 128 wide | 8,134 | 4.2 | {} |",
    ),
    quote(
        "docs/guides/encoders.md",
        "MiniLM answers {}% of 400 questions",
        "question_answering.md",
        "| dev | 400 | 400 | {} |",
    ),
    quote(
        "docs/guides/machines.md",
        "{} MB a step, against {}",
        "workers.md",
        "| rows, RowWiseAdam | {} |",
        "| dense, Adam | {}3 |",
    ),
    quote(
        "docs/guides/machines.md",
        "score {1} times as many texts as one process alone, and Spark's {3} times, its Java included: {0} and {2},",
        "scoring.md",
        "| Dask's map_partitions, 2 workers | 16,566 | 1.21x | {} | {}x |",
        "| Spark's mapInPandas, 2 workers | 10,980 | 0.68x | {} | {}x |",
    ),
    quote(
        "docs/guides/machines.md",
        "10 million words x 100 (4.0 GB) took {} GB to convert and {} GB to align",
        "big_tables.md",
        "| 10,000,000 | 4.0 | convert the file to a store (.h5) | 39.73 | 251,708 | {} |",
        "| 10,000,000 | 4.0 | align(store, vocabulary, out=) | 60.38 | 165,614 | {} |",
    ),
    quote(
        "docs/guides/encoders.md",
        "LoRA reaches {6}% on the tweets and {7}% on the films, adapters {4}% and {5}%, all layers {8}% and {9}%. Class means "
        "and the head alone are left behind: {0}% and {1}%, {2}% and {3}%.",
        "parameter_efficient.md",
        "200 texts (in brackets: seeds)",
        "| class means | embkeras | {} (3) | {} (3) |",
        "| head | embkeras | {} (3) | {} (3) |",
        "| adapters | embkeras | {} (3) | {} (3) |",
        "| LoRA | embkeras | {} (3) | {} (3) |",
        "| all | embkeras | {} (3) | {} (3) |",
    ),
    quote(
        "docs/guides/encoders.md",
        "With 200 texts its LoRA reaches {}% and {}%, and all layers {}% and {}%; with all texts {}% and {}%, {}% and {}%.",
        "parameter_efficient.md",
        "200 texts (in brackets: seeds)",
        "| LoRA | PyTorch | {} (3) | {} (3) |",
        "| all | PyTorch | {} (3) | {} (3) |",
        "| LoRA | PyTorch | {} (3) | {} (3) |",
        "| all | PyTorch | {} (3) | {} (3) |",
    ),
    quote(
        "docs/guides/encoders.md",
        "all layers reach {8}% on the tweets and {9}% on the films, adapters {2}% and {3}%, LoRA {4}% and {5}%, prompts {6}% and "
        "{7}%, the head {0}% and {1}%.",
        "parameter_efficient.md",
        "All texts (in brackets: seeds)",
        "| head | embkeras | {} (3) | {} (3) |",
        "| adapters | embkeras | {} (3) | {} (3) |",
        "| LoRA | embkeras | {} (3) | {} (3) |",
        "| prompts | embkeras | {} (3) | {} (3) |",
        "| all | embkeras | {} (3) | {} (3) |",
    ),
    *ENCODERS,
    *RECIPE,
    *FEW_LABELS,
]


def text_of(path: str) -> str:
    """A file in one line."""
    return " ".join((ROOT / path).read_text("utf-8").split())


def measured(quoted: Quote) -> list[str]:
    """The figures of the result file; each piece is looked for behind the one before."""
    text, place, found = text_of(quoted.file), 0, []
    for piece in quoted.measured:
        pattern = re.compile(re.escape(" ".join(piece.split())).replace(r"\{\}", r"([^|]+?)"))
        match = pattern.search(text, place)
        assert match, f"{quoted.file} has no {piece!r}"
        found += match.groups()
        place = match.end()
    return found


@pytest.mark.parametrize("quoted", QUOTES, ids=lambda quoted: f"{Path(quoted.page).stem}: {quoted.written[:40]}")
def test_a_quoted_figure_is_the_measured_one(quoted):
    """The page's sentence, with the figures of the result file."""
    assert quoted.written.format(*measured(quoted)) in text_of(quoted.page)


def test_times_of_encoders_are_those_of_the_records():
    """Processor time over that of the others: the smallest and largest of three sets of texts, each a mean of seeds."""
    taken = defaultdict(list)
    for line in (ROOT / RESULTS / "encoders.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        taken[record["way"], record["package"], record["data"]].append(record["seconds"])
    means = {key: sum(values) / len(values) for key, values in taken.items()}
    ranges = {}
    for way, package in itertools.product(("head", "top", "LoRA", "all"), ("keras-hub", "PyTorch")):
        ratios = [
            means[way, "embkeras", data] / means[way, package, data] for data in ("tweets", "films", "editorials")
        ]
        ranges[way, package] = f"{min(ratios):.2f} to {max(ratios):.2f}"
    assert f"trains in {ranges['head', 'keras-hub']} of the time of keras-hub's classifier" in text_of("README.md")
    guide = text_of("docs/guides/encoders.md")
    for row, way in [
        ("head", "head"),
        ("top block and head", "top"),
        ("LoRA in the upper half", "LoRA"),
        ("all, rates", "all"),
    ]:
        (found,) = re.findall(rf"\| {row}[^|]*\|[^|]*\|[^|]*\|[^|]*\| ([^|]*) \| ([^|]*) \|", guide)
        assert found == (ranges[way, "keras-hub"], ranges[way, "PyTorch"])


def test_accuracies_of_encoders_are_those_of_the_records():
    """Points below the better of keras-hub and PyTorch where all layers train: the smallest and largest of three sets."""
    reached = defaultdict(list)
    for line in (ROOT / RESULTS / "encoders.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        if record["way"] == "all":
            reached[record["package"], record["data"]].append(record["accuracy"])
    means = {key: 100 * sum(values) / len(values) for key, values in reached.items()}
    behind = [
        max(means["keras-hub", data], means["PyTorch", data]) - means["embkeras", data]
        for data in ("tweets", "films", "editorials")
    ]
    said = f"{min(behind):.1f} to {max(behind):.1f} points below the better of the two"
    assert said in text_of("docs/guides/encoders.md") and said in text_of("CHANGELOG.md")


def test_what_few_labels_reach_is_said_as_measured():
    """The sentences on 32 and 50 texts compare figures of their tables: the best, the ways for few labels, times."""
    text, guide = text_of(RESULTS + "parameter_efficient.md"), text_of("docs/guides/encoders.md")
    reached = {}
    for size in (32, 50):
        (table,) = re.findall(rf"\b{size} texts \(.*?(?=\d+ texts \()", text)
        rows = re.findall(
            r"\| ([\w ]+) \| embkeras \| ([\d.]+) \(3\) \| ([\d.]+) \(3\) \| [\d,]+ \| ([\d.]+) \|", table
        )
        reached[size] = {way: tuple(map(float, figures)) for way, *figures in rows}
    tweets, films, seconds = ({way: row[column] for way, row in reached[32].items()} for column in range(3))
    lags = max(tweets.values()) - tweets["prompts"], max(films.values()) - films["class means"]
    assert f"the three ways for few labels is within {max(lags):.1f} points of the best" in guide
    lag = max(max(each.values()) - each["head"] for each in (tweets, films))
    assert f"The head alone is up to {lag:.1f} points behind" in guide
    assert round(seconds["all"] / seconds["class means"]) == 13 and "in a thirteenth of the time" in guide
    best = [max(reached[50], key=lambda way, column=column: reached[50][way][column]) for column in range(2)]
    assert best == ["adapters", "class means"] and "adapters lead on the tweets" in guide
    share = reached[50]["adapters"][2] / reached[50]["all"][2]
    assert round(5 * share) == 4 and "in four fifths of the time" in guide


def test_rates_of_large_tables_are_those_measured():
    """Rounded to thousands of words a second."""
    rows = dict(
        re.findall(
            r"\| 10,000,000 \| 4\.0 \| (convert|align)[^|]*\| [\d.]+ \| ([\d,]+) \|", text_of(RESULTS + "big_tables.md")
        )
    )
    convert, align = (f"{round(int(rows[case].replace(',', '')), -3):,}" for case in ("convert", "align"))
    assert f"at {convert} and {align} words a second" in text_of("docs/guides/machines.md")


def all_benchmarks():
    """benchmarks/all.py."""
    spec = importlib.util.spec_from_file_location("all_benchmarks", ROOT / "benchmarks" / "all.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_command_runs_every_benchmark():
    """benchmarks/all.py names each script that measures; the others are parts of them, or no benchmarks."""
    module = all_benchmarks()
    parts = {"machine", "records", "rated_texts", "trials", "encoders_torch", "decoder_torch", "decoder_llama"}
    others = {"all", "colab_cell", "fuzz_readers", "mutants"}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert sorted(module.NAMES) == sorted(scripts - parts - others)


def test_the_page_of_benchmarks_holds_the_result_files():
    """Tables on it are the scripts' own: `benchmarks/all.py --page` would change nothing."""
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert page.count("<!-- end -->") == page.count("<!-- ") / 2 > 5
    assert all_benchmarks().filled(page) == page


def test_a_result_file_fills_the_page_without_its_title(tmp_path, monkeypatch):
    """Between its marks, whatever was there; its sections are sections of the page's."""
    module = all_benchmarks()
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / "speed.md").write_text("# Speed\n\nA table.\n\n## More\n", "utf-8")
    page = "Text.\n<!-- speed -->\nold\n<!-- end -->\nLimits.\n"
    assert module.filled(page) == "Text.\n<!-- speed -->\n\nA table.\n\n### More\n\n<!-- end -->\nLimits.\n"


def test_a_benchmark_leaves_out_what_it_lacks():
    """A flag goes with its value, and a script whose first argument is missing is left out."""
    module = all_benchmarks()
    decoder = next(script for script in module.SCRIPTS if script.name == "decoder")
    assert module.missing(decoder._replace(needs=()), {}) == ["--gguf"]
    (command,) = module.commands(decoder, {"gguf": "FILE", "llama": "PYTHON"})
    assert command[2:] == ["FILE", "--llama", "PYTHON"]

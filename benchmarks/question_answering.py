"""Answers as spans of a text: exact match and F1 after minutes on two cores, on facts whose answers are known, or on SQuAD.

    python benchmarks/question_answering.py FOLDER --write                 # generated facts; results/question_answering.md
    python benchmarks/question_answering.py FOLDER --squad train-v2.0.json dev-v2.0.json --length 384 --epochs 2
    python benchmarks/question_answering.py FOLDER --files facts           # writes facts/train.json and facts/dev.json

FOLDER is an encoder's, such as MiniLM's. A text of the generated set has facts of several people, in sentences of several
forms and in any order; a question asks for one fact of one of them, and the same fact of others is there too. Of ten
questions two have no answer: the person isn't in the text, or that fact isn't. No name, place, job or instrument of the
held-out rows occurs in training. "long" has texts of several windows, of which training has a few. The set goes through
files in SQuAD's format, as any other.

The processor time is that of all threads, from the read files to the trained model.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from machine import machine_line

RESULT = Path(__file__).with_name("results") / "question_answering.md"
BATCH, SERVED = 32, 25
LONG = 14  # short texts for a long one in training
# Words of training | words of held-out rows.
NAMES = (
    "Anna Boris Carla David Elena Frank Greta Henry Ingrid Jonas Karin Louis Maria Nils Olga Peter Rosa Simon Tina Viktor "
    "Alice Bruno Clara Dennis Emma Felix Helen Ivan Julia Kevin Laura Martin Nora Oscar Paula Robert Sarah Thomas Vera Walter",
    "Agnes Conrad Diana Edgar Fiona Gustav Hanna Igor Judith Klaus Linda Max Nina Otto Petra Ralph Sonja Theo Ursula Victor",
)
PLACES = (
    "Graz|Oslo|Lyon|Porto|Leeds|New Haven|San Diego|Kyoto|Cairo|Lima|Quito|Perth|Novi Sad|Turin|Basel|Ghent|Malmo|Salt Lake "
    "City|Santa Fe|Accra|Lagos|Mumbai|Hanoi|Manila|Dallas|Denver|Buenos Aires|Cape Town|Gdansk|Riga",
    "Vienna|Bergen|Nantes|Braga|York|New Orleans|San Jose|Osaka|Tunis|La Paz|Adelaide|Banja Luka|Genoa|Zurich|Bruges|Uppsala|"
    "Kansas City|Santa Cruz|Nairobi|Port Louis",
)
JOBS = (
    "nurse|baker|train driver|teacher|lawyer|tax adviser|gardener|pilot|tailor|dentist|farmer|police officer|cook|painter|"
    "plumber|bus driver|journalist|judge|chemist|shop assistant",
    "carpenter|butcher|truck driver|librarian|surgeon|bank clerk|fisherman|translator|photographer|engineer",
)
THINGS = (
    "violin|piano|flute|drums|cello|bass guitar|trumpet|harp|organ|accordion",
    "clarinet|electric guitar|oboe|banjo|trombone",
)
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
# Fact: the forms of a sentence, and those of a question; {n} is the name and {v} the value.
FACTS: dict[str, tuple[list[str], list[str]]] = {
    "home": (
        [
            "{n} lives in {v}.",
            "The home of {n} is in {v}.",
            "{n} has a flat in {v} and likes it.",
            "In {v} one can meet {n}.",
        ],
        ["Where does {n} live?", "In which town does {n} live?", "Where is the home of {n}?"],
    ),
    "job": (
        ["{n} works as a {v}.", "By profession, {n} is a {v}.", "{n} became a {v} some years ago."],
        ["What does {n} do for a living?", "What is the profession of {n}?", "What does {n} work as?"],
    ),
    "birthday": (
        ["{n} was born on {v}.", "The birthday of {n} is {v}.", "On {v}, {n} came into the world."],
        ["When was {n} born?", "What is the birthday of {n}?"],
    ),
    "music": (
        ["{n} plays the {v} on Sundays.", "The {v} in the hall belongs to {n}.", "{n} is learning the {v}."],
        ["What does {n} play?", "Which instrument does {n} have?"],
    ),
    "age": (
        ["{n} is {v} years old.", "At the age of {v}, {n} still runs every day.", "{n} has just turned {v}."],
        ["How old is {n}?", "What is the age of {n}?"],
    ),
}
Known = dict[tuple[str, str], str]  # (name, fact) -> value


def value(source: random.Random, fact: str, held_out: int) -> str:
    """A value of a fact."""
    if fact == "birthday":
        return f"{source.randint(1, 28)} {source.choice(MONTHS.split('|'))} {source.randint(1930, 2005)}"
    if fact == "age":
        return str(source.randint(18, 95))
    words = {"home": PLACES, "job": JOBS, "music": THINGS}[fact][held_out]
    return source.choice(words.split("|"))


def text_of(source: random.Random, held_out: int, sentences: int) -> tuple[str, Known, dict[tuple[str, str], int]]:
    """A text, its facts, and where each value is in it."""
    names = source.sample(NAMES[held_out].split(), min(max(2, sentences // 2), 12))
    asked = source.sample([(name, fact) for name in names for fact in FACTS], sentences)
    known: Known = {}
    places: dict[tuple[str, str], int] = {}
    text = ""
    for name, fact in asked:
        known[name, fact] = value(source, fact, held_out)
        before, after = source.choice(FACTS[fact][0]).replace("{n}", name).split("{v}")
        text += (" " if text else "") + before
        places[name, fact] = len(text)
        text += known[name, fact] + after
    return text, known, places


def squad_of(rows: int, seed: int, held_out: int, sentences: tuple[int, int]) -> dict[str, Any]:
    """Questions in SQuAD's format, each on a text of its own."""
    source, paragraphs = random.Random(seed), []
    for row in range(rows):
        text, known, places = text_of(source, held_out, source.randint(*sentences))
        impossible = source.random() < 0.2
        if impossible:
            name, fact = source.choice(
                [(name, fact) for name in NAMES[held_out].split() for fact in FACTS if (name, fact) not in known]
            )
        else:
            name, fact = source.choice(list(known))
        answers = [] if impossible else [{"text": known[name, fact], "answer_start": places[name, fact]}]
        question = source.choice(FACTS[fact][1]).replace("{n}", name)
        asked = {"id": f"{seed}-{row}", "question": question, "answers": answers, "is_impossible": impossible}
        paragraphs.append({"context": text, "qas": [asked]})
    return {"version": "v2.0", "data": [{"title": "facts", "paragraphs": paragraphs}]}


def written(folder: Path, rows: int) -> dict[str, Path]:
    """The generated set as files."""
    folder.mkdir(parents=True, exist_ok=True)
    short, long = (2, 5), (15, 20)
    sets = {
        "train": squad_of(rows, 1, 0, short),
        "dev": squad_of(400, 2, 1, short),
        "long": squad_of(100, 3, 1, long),
    }
    sets["train"]["data"] += squad_of(rows // LONG, 4, 0, long)["data"]
    paths = {name: folder / f"{name}.json" for name in sets}
    for name, data in sets.items():
        paths[name].write_text(json.dumps(data), "utf-8")
    return paths


def trained(read: Any, examples: Sequence[Any], given: argparse.Namespace) -> Any:
    """A model trained on examples."""
    import keras

    import embkeras as ek

    keras.utils.set_random_seed(given.seed)
    model = ek.build_span_model(read)
    windows = ek.encode_spans(read.tokenizer, examples, given.length, given.stride)
    steps = given.epochs * -(-len(windows) // BATCH)
    optimizer = ek.RowWiseAdamW(ek.LinearDecay(given.rate, steps), weight_decay=0.01, decay_biases=False)
    model.compile(optimizer, dict.fromkeys(("start", "end"), "sparse_categorical_crossentropy"))
    model.fit(windows.ids, windows.labels, batch_size=BATCH, epochs=given.epochs, verbose=2)
    return model


def row_of(name: str, model: Any, read: Any, examples: Sequence[Any], given: argparse.Namespace) -> str:
    """The scores of a set as a row of the table."""
    import embkeras as ek

    windows = ek.encode_spans(read.tokenizer, examples, given.length, given.stride)
    answers = ek.decode_spans(model.predict(windows.ids, batch_size=BATCH, verbose=0), windows)
    scores = ek.squad_scores(examples, answers)
    cells = [name, f"{len(examples):,}", f"{len(windows):,}"]
    if "has_answer_total" not in scores:
        return " | ".join([*cells, f"{scores['exact_match']:.1f}", f"{scores['f1']:.1f}", "", ""])
    if "no_answer_total" not in scores:
        return " | ".join([*cells, f"{scores['has_answer_exact_match']:.1f}", f"{scores['has_answer_f1']:.1f}", "", ""])
    even = ek.squad_scores(examples, answers, threshold=0.5)
    cells += [f"{scores['has_answer_exact_match']:.1f}", f"{scores['has_answer_f1']:.1f}"]
    best = f"{scores['best_exact_match']:.1f} (at {scores['best_exact_match_threshold']:.2f})"
    return " | ".join([*cells, f"{even['exact_match']:.1f}", best])


def served(model: Any, read: Any, examples: Sequence[Any], given: argparse.Namespace) -> str:
    """Whether the export returns the same answers as the model."""
    import embkeras as ek

    windows = ek.encode_spans(read.tokenizer, examples, given.length, given.stride)
    wanted = ek.decode_spans(model.predict(windows.ids, verbose=0), windows)
    with tempfile.TemporaryDirectory() as folder:
        export = ek.ExportedModel(ek.export_saved_model(model, Path(folder) / "qa", vocabulary=read.tokenizer))
        got = [
            export.answer(each.question, each.context, length=given.length, stride=given.stride) for each in examples
        ]
    same = sum(one.text == other.text for one, other in zip(got, wanted, strict=True))
    apart = max(abs(one.score - other.score) for one, other in zip(got, wanted, strict=True))
    return (
        f"The export returns the same text for {same} of {len(examples)} questions; scores differ by up to {apart:.0e}."
    )


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="an encoder's folder")
    parser.add_argument("--squad", type=Path, nargs=2, metavar=("TRAIN", "DEV"), help="files in SQuAD's format")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="write the generated set there, and stop")
    parser.add_argument("--rows", type=int, default=2000, help="short questions to train on; of SQuAD, the first ones")
    parser.add_argument("--dev-rows", type=int, help="questions of DEV, the first ones; by default all")
    parser.add_argument("--length", type=int, default=96, help="pieces of a window")
    parser.add_argument("--stride", type=int, help="pieces from one window to the next")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-4, help="peak of the learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    given = parser.parse_args()
    if given.files:
        print(*written(given.files, given.rows).values(), sep="\n")
        return
    import embkeras as ek

    with tempfile.TemporaryDirectory() as folder:
        paths = (
            dict(zip(("train", "dev"), given.squad, strict=True)) if given.squad else written(Path(folder), given.rows)
        )
        sets = {name: ek.load_squad(path) for name, path in paths.items()}
    train, tested = sets.pop("train"), {name: rows[: given.dev_rows] for name, rows in sets.items()}
    train = train[: given.rows] if given.squad else train
    read = ek.load_pretrained(given.folder)
    used = time.process_time()
    model = trained(read, train, given)
    used = time.process_time() - used
    heads = (
        "set | questions | windows | exact match | F1 | exact match with no answer | best exact match with no answer"
    )
    lines = [f"| {heads} |", "|---" * 7 + "|"]
    lines += [f"| {row_of(name, model, read, rows, given)} |" for name, rows in tested.items()]
    settings = f"{len(train):,} questions, {given.epochs} epochs, windows of {given.length} pieces, rate {given.rate:g}"
    text = "\n".join(
        [
            machine_line("embkeras", "tensorflow", "keras"),
            "",
            f"{read!r}: {settings}; {used:,.0f} s of the processor.",
            "",
            *lines,
            "",
            '"Exact match" and "F1" are of the questions that have an answer, each answered. With no answer, all questions '
            "count: those whose `no_answer` is above 0.5 are answered by nothing, or above the threshold that fits best.",
            "",
            served(model, read, next(iter(tested.values()))[:SERVED], given),
        ]
    )
    print(text)
    if given.write:
        RESULT.write_text(f"# Answers to questions\n\nMade by `benchmarks/question_answering.py`.\n\n{text}\n", "utf-8")


if __name__ == "__main__":
    main()

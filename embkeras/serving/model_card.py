"""The README of an export: what it takes and gives, and what is known of it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from embkeras.errors import ArgumentError
from embkeras.serving.names import ABOUT_FILE, VOCABULARY_FILE


def check_about(about: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sections for the model card: title -> text, table, or numbers by name.

    Raises:
        ArgumentError: something else.
    """
    about = dict(about or {})
    for title, value in about.items():
        if not isinstance(title, str) or not isinstance(value, str | pd.DataFrame | Mapping):
            raise ArgumentError(
                f"about maps titles of the model card to a text, a DataFrame or numbers by name. Received: {title!r}: {value!r}."
            )
    return about


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """The same sections as plain data; a table is a list of rows by column."""
    plain = {
        title: json.loads(value.to_json(orient="records")) if isinstance(value, pd.DataFrame) else value
        for title, value in about.items()
    }
    Path(folder, ABOUT_FILE).write_text(json.dumps(plain, indent=1, default=str), encoding="ascii")


def model_card(name: str, card: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The README of an export, as Markdown."""
    signatures = "\n".join(f"| `{key}` | {what} |" for key, what in _described(card))
    facts = "\n".join(f"| {key} | {value} |" for key, value in _facts(card))
    text = f"""# {name}

A text classifier that is asked in token ids, exported by embkeras. `assets/{VOCABULARY_FILE}` says what the ids mean.

| signature | what it takes and gives |
|---|---|
{signatures}

| | |
|---|---|
{facts}
"""
    return text + "".join(f"\n## {title}\n\n{_section(value)}\n" for title, value in about.items())


def _described(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    outputs = ", ".join(f"`{name}`" for name in card["outputs"])
    policy = 'are read as "[UNK]"' if card["bad_ids"] == "oov" else "are refused"
    yield (
        "serving_default",
        f"`token_ids` int64 (batch, time) -> {outputs}; ids outside [0, {card['vocabulary_size']}) {policy}",
    )
    yield "serving_int32", "the same for int32, half the bytes"
    if card["no_texts"] is None:
        yield "text", f"`text` strings (batch,) -> {outputs}"
    else:
        yield "~~text~~", f"left out: {card['no_texts']}"
    yield "about", "`asked` int32 (batch,) -> `card`: what `assets/embkeras.json` says, for clients to compare"
    if card["embed"]:
        yield "embed", f"`token_ids` int64 (batch, time) -> `vectors` (batch, time, width) of layer {card['embed']}"


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "tokens", f"{card['vocabulary_size']:,}"
    yield "vocabulary fingerprint", f"`{card['vocabulary_fingerprint']}`"
    for path, table in card["tables"].items():
        yield (
            f"table {path}",
            f"{table['rows']:,} x {table['width']}, {table['accuracy'] or 'float32'}, `{table['sha256']}`",
        )
    if card["class_names"]:
        yield "classes", ", ".join(card["class_names"])
    yield "shortest text the model reads", f"{card['least']} tokens; shorter ones are filled up with padding"
    yield "made with", f"embkeras {card['embkeras']}, Keras {card['keras']}, TensorFlow {card['tensorflow']}"


def _section(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(["| | |", "|---|---|", *(f"| {key} | {number} |" for key, number in value.items())])
    columns = " | ".join(map(str, value.columns))
    rows = [" | ".join(map(str, row)) for row in value.itertuples(index=False)]
    return "\n".join([f"| {columns} |", "|---" * len(value.columns) + "|", *(f"| {row} |" for row in rows)])

"""The README of an export: what it takes and gives, and what is known of it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from embkeras.errors import ArgumentError
from embkeras.serving.names import ABOUT_FILE, VOCABULARY_FILE


def check_about(about: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sections for the model card: title -> text, table, or numbers by name.

    Raises:
        ArgumentError: something else.
    """
    if about is not None and not isinstance(about, Mapping):
        raise ArgumentError(f"about maps titles of the model card to what they hold. Received: {about!r}.")
    about = dict(about or {})
    for title, value in about.items():
        if not isinstance(title, str) or not isinstance(value, str | pd.DataFrame | Mapping):
            raise ArgumentError(
                f"about maps titles of the model card to a text, a DataFrame or numbers by name. Received: {title!r}: {value!r}."
            )
    try:
        json.dumps(_plain(about), default=_number).encode("utf-8")
        "".join(map(_section, about.values())).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"about must be what JSON can hold. Received a section that it cannot: {error}.") from error
    return about


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """The same sections as plain data; a table is a list of rows by column."""
    Path(folder, ABOUT_FILE).write_text(json.dumps(_plain(about), indent=1, default=_number), encoding="ascii")


def _plain(about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        title: json.loads(value.to_json(orient="records")) if isinstance(value, pd.DataFrame) else value
        for title, value in about.items()
    }


def _number(value: Any) -> Any:
    """NumPy's numbers as Python's; anything else as text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def model_card(name: str, card: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The README of an export, as Markdown."""
    signatures = "\n".join(f"| `{key}` | {what} |" for key, what in _described(card))
    facts = "\n".join(f"| {key} | {value} |" for key, value in _facts(card))
    text = f"""# {name}

A text classifier that is asked in token ids, exported by embkeras. `assets/{VOCABULARY_FILE}` says what the ids mean.

| signature | what it takes and gives |
|---|---|
{signatures}

{_asking(name, card)}

| | |
|---|---|
{facts}
"""
    return text + "".join(f"\n## {title}\n\n{_section(value)}\n" for title, value in about.items())


def _asking(name: str, card: Mapping[str, Any]) -> str:
    """How a server is asked."""
    padding = card["padding_id"]
    ids = ([] if padding is None else [padding]) + [card["vocabulary_size"] - 1] * (card["most"] or 2)
    asked = json.dumps({"instances": [ids[: card["most"]]]})
    text = f"""Over REST:

    curl -d '{asked}' http://HOST:8501/v1/models/{name}:predict"""
    if padding is None:
        return text
    return f"""{text}

A request may begin with {padding}, the padding. It has to where a server with batching lets requests of several lengths share
a batch, for it fills short ones up with their first number."""


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

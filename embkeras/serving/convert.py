"""convert_saved_model: an export for ONNX Runtime, LiteRT or TensorFlow.js, checked against the SavedModel."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embkeras import __version__
from embkeras._checks import flag, one_of
from embkeras._checks import path as checked_path
from embkeras._files import check_writable, written_beside
from embkeras._progress import progress
from embkeras.errors import MissingDependencyError, OutputError, SavedModelError
from embkeras.serving import names
from embkeras.serving.reasons import reason

if TYPE_CHECKING:
    from embkeras.serving.local import ExportedModel

CARD_FILE = "conversion.json"
_PLACES = re.compile(r"loc\(.*\)+: ")  # of an operation, nested, in messages of LiteRT's converter


@dataclass(frozen=True)
class _Target:
    """A runtime: the end of the folder's name, the file with the model, and the packages that convert and ask it."""

    suffix: str
    file: str
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


TARGETS = {
    "onnx": _Target("onnx", "model.onnx", ("tf2onnx", "onnxruntime")),
    "litert": _Target("litert", "model.tflite", ("ai_edge_litert",)),
    "tfjs": _Target("js", "model.json", programs=("tensorflowjs_converter",)),
}


def convert_saved_model(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    check: bool = True,
) -> Path:
    """Write an export for another runtime, in a folder of its own.

    The folder has the model, which takes the inputs of `serving_default` and returns the same outputs; the vocabulary,
    class names and card, so that `TextEncoder(folder)` makes ids for it; and `README.md` and `conversion.json`, which say
    what the runtime can't keep, such as strings and refusals. Before the folder gets its name, the runtime answers the
    requests of `check_saved_model`: short and long texts, padding in front and behind, batches, ids outside the table.
    Every row must be that of the SavedModel to 1e-5 (float16 and bfloat16 models: 2e-3 and 2e-2).

    Args:
        path: the model's folder (its highest version is taken) or the folder of one version.
        to: "onnx" writes `model.onnx` for ONNX Runtime, "litert" `model.tflite` for LiteRT, "tfjs" `model.json` with its
            weights for TensorFlow.js.
        out: the folder to write; by default `NAME-onnx`, `NAME-litert` or `NAME-js` beside the model's folder NAME.
        overwrite: replace the folder if it exists.
        check: compare the answers before the folder gets its name.

    Returns:
        The folder.

    Raises:
        MissingDependencyError: the converter or the runtime is not installed; the message names the extra.
        SavedModelError: there is no export, the converter can't convert it, or the answers differ.
        OutputError: the folder can't be written, or exists.
        ArgumentError: an argument of another type or outside its choices.

    Examples:
        >>> convert_saved_model("saved_models/tweets", "onnx")  # doctest: +SKIP
        PosixPath('saved_models/tweets-onnx')
    """
    target = check_conversion(path, to, out, overwrite=overwrite, check=check)
    from embkeras.serving.local import ExportedModel

    with progress("converting") as report, written_beside(target, overwrite=overwrite) as beside:
        report(1, 3)
        export = ExportedModel(path)
        beside.mkdir()
        facts = _converted(export, to, beside)
        report(2, 3)
        checked = _compare(export, to, beside, facts) if check else None
        _describe(export, to, beside, facts, checked)
    return target


def check_conversion(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    check: bool = True,
) -> Path:
    """The folder that `convert_saved_model` would write; refuses, without TensorFlow, what it would refuse later.

    Raises:
        MissingDependencyError, SavedModelError, OutputError, ArgumentError: as for `convert_saved_model`.
    """
    one_of(to, "to", TARGETS)
    for name, value in (("overwrite", overwrite), ("check", check)):
        flag(value, name)
    folder = names.saved_model_folder(path).absolute()
    names.read_card(folder / "assets")
    model = folder.parent if folder.name.isdigit() else folder
    target = model.parent / f"{model.name}-{TARGETS[to].suffix}" if out is None else checked_path(out, "out")
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"Cannot write {str(target)!r}: it already exists. Pass overwrite=True to replace it.")
    check_writable(target.parent)
    _check_installed(to, check)
    return target


def not_kept(folder: str | os.PathLike[str]) -> list[str]:
    """What a converted model doesn't do that the SavedModel does, one sentence each, from its `conversion.json`."""
    return list(json.loads((checked_path(folder, "folder") / CARD_FILE).read_text(encoding="utf-8"))["not_kept"])


def _check_installed(to: str, check: bool) -> None:
    """Refuse a conversion without its converter, or without the runtime in which it is checked."""
    missing = [name for name in TARGETS[to].packages if importlib.util.find_spec(name) is None]
    missing += [name for name in TARGETS[to].programs if shutil.which(name) is None]
    if missing:
        where = ""
        if TARGETS[to].programs:
            where = " That installs TensorFlow 2.19, so best in an environment of its own, whose folder of programs is on PATH."
        raise MissingDependencyError(
            f'Converting to {to} needs {" and ".join(missing)}: python -m pip install "embkeras[{to}]".{where}'
        )
    if to == "tfjs" and check and not _node_has_tfjs():
        raise MissingDependencyError(
            "Checking what was converted to tfjs needs Node.js with its package @tensorflow/tfjs: npm install "
            "@tensorflow/tfjs in this folder, or where NODE_PATH leads. Or pass check=False."
        )


def _node_has_tfjs() -> bool:
    """Whether Node.js is on PATH and finds its package."""
    if shutil.which("node") is None:
        return False
    command = ["node", "-e", "require.resolve('@tensorflow/tfjs')"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _converted(export: "ExportedModel", to: str, folder: Path) -> dict[str, Any]:
    """Write the model; returns facts for its card."""
    from embkeras.serving import runtimes

    try:
        return dict(getattr(runtimes, f"to_{to}")(export, folder))
    except SavedModelError:
        raise
    except Exception as error:  # each converter has its own classes
        raise SavedModelError(
            f"The converter to {to} can't convert {str(export.folder)!r}: {type(error).__name__}: "
            f"{_PLACES.sub('', reason(str(error)))}"
        ) from error


def _compare(export: "ExportedModel", to: str, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Ask both the same; returns how many requests there were, and the largest difference."""

    from embkeras.serving import runtimes
    from embkeras.serving.check import TOLERANCE, requests_of

    signature = names.SERVING_INT32 if to == "tfjs" else names.SERVING
    ids = {each["name"] for each in export.card["inputs"] if each["kind"] == names.IDS}
    asked = []
    for kind, request in requests_of(export, narrow=to == "tfjs"):
        if to == "tfjs":
            request = {name: value.astype(np.int32) if name in ids else value for name, value in request.items()}
        size = len(next(iter(request.values())))
        several = facts.get("rows") == 1 and size > 1
        rows = [slice(place, place + 1) for place in range(size)] if several else [slice(None)]
        asked += [(kind, {name: value[each] for name, value in request.items()}) for each in rows]
    answers = getattr(runtimes, f"ask_{to}")(folder)([request for _, request in asked])
    largest, tolerance = 0.0, TOLERANCE[export.card["precision"]]
    unlike: set[str] = set()
    for (kind, request), got in zip(asked, answers, strict=True):
        try:
            wanted = export.ask(signature, **request)
        except SavedModelError:
            if not isinstance(got, str) and kind == "outside" and _finite(got):
                what = "ids outside the table have scores, and the SavedModel refuses them"
                raise _wrong(export, to, request, what) from None
            if not isinstance(got, str):
                unlike.add(kind)
            continue
        difference = _difference({name: wanted[name] for name in export.card["outputs"]}, got)
        if isinstance(difference, float) and difference <= tolerance:
            largest = max(largest, difference)
        elif kind == "no steps":  # LiteRT and TensorFlow.js have no tensors without elements everywhere
            unlike.add(kind)
        else:
            what = difference if isinstance(difference, str) else f"the scores differ by {difference:.2g}"
            raise _wrong(export, to, request, what)
    facts["unlike"] = sorted(unlike)
    return {"requests": len(asked), "largest_difference": largest, "tolerance": tolerance}


def _finite(answers: Mapping[str, np.ndarray]) -> bool:
    """Whether a refused text has finite scores, and so would be taken for an answer."""
    return any(np.isfinite(scores.astype(np.float64)).any() for scores in answers.values())


def _difference(wanted: Mapping[str, np.ndarray], got: dict[str, np.ndarray] | str) -> float | str:
    """The largest difference relative to the largest score or 1, or what is wrong with the answers."""
    if isinstance(got, str):
        return f"it fails: {got}"
    largest = 0.0
    for name, scores in wanted.items():
        if name not in got or got[name].shape != scores.shape:
            shape = got[name].shape if name in got else None
            return f"{name!r} has shape {shape} instead of {scores.shape}"
        scores = scores.astype(np.float64)
        difference = np.abs(scores - got[name]).max(initial=0.0) / np.abs(scores).max(initial=1.0)
        if not difference < np.inf:
            return f"{name!r} has NaN or infinity"
        largest = max(largest, float(difference))
    return largest


def _wrong(export: "ExportedModel", to: str, request: Mapping[str, np.ndarray], what: str) -> SavedModelError:
    shown = ", ".join(f"{name} {value.ravel().tolist()[:20]} of shape {value.shape}" for name, value in request.items())
    return SavedModelError(f"{str(export.folder)!r} has other answers in {to}: {what}, for {shown}.")


def _left_out(export: "ExportedModel", to: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """What the converted model doesn't do, one sentence each."""
    card = export.card
    if card["no_text_reason"] is None:
        yield "It takes no texts: TextEncoder(this folder) makes ids of them."
    if card["class_names"]:
        yield f"It doesn't return class names: {names.CLASSES_FILE} has them in the order of the scores."
    for name in sorted(set(export.signatures) - {names.SERVING, names.SERVING_INT32, names.TEXT, names.CARD}):
        yield f"It has no signature {name!r}."
    if card["out_of_range"] == "error":
        yield "Ids outside the table are not refused: the scores of such a text are NaN."
    for each in card["inputs"]:
        if card["long_texts"] == "error" and each.get("max_length"):
            yield f"Texts of more than {each['max_length']} tokens in {each['name']} are not refused."
    if to == "tfjs":
        yield "Ids are int32, and the shapes of requests are not checked."
    if facts.get("rows") == 1:
        yield "It takes one text at a time, because its loop over time needs a known number of rows."
    if "no steps" in facts.get("unlike", ()):
        yield "A request needs one time step at least: send the padding id for an empty text."


def _describe(
    export: "ExportedModel", to: str, folder: Path, facts: Mapping[str, Any], checked: Mapping[str, Any] | None
) -> None:
    """Write what belongs to the ids, the card of the conversion, and the README."""
    card, assets = export.card, export.folder / "assets"
    vocabularies = {each.get("vocabulary_file") for each in card["inputs"]} - {None}
    for name in sorted({names.CARD_FILE, names.CLASSES_FILE, *vocabularies}):
        if (assets / name).is_file():
            shutil.copyfile(assets / name, folder / name)
    left_out = list(_left_out(export, to, facts))
    described = {
        "format": "embkeras.conversion",
        "version": 1,
        "to": to,
        "file": TARGETS[to].file,
        "name": card["name"],
        "weights_sha256": card["weights_sha256"],
        "inputs": [{key: each[key] for key in ("name", "kind", "dtype", "shape")} for each in card["inputs"]],
        "outputs": card["outputs"],
        "nodes": facts.get("nodes"),
        "rows": facts.get("rows"),
        "not_kept": left_out,
        "checked": checked,
        "converter": facts["converter"],
        "runtime": facts["runtime"] if checked else None,
        "embkeras": __version__,
    }
    if to == "tfjs":
        for each in described["inputs"]:
            each["dtype"] = "int32" if each["kind"] == names.IDS else each["dtype"]
    (folder / CARD_FILE).write_text(json.dumps(described, indent=1), encoding="utf-8")
    (folder / "README.md").write_text(_readme(described), encoding="utf-8")


def _readme(card: Mapping[str, Any]) -> str:
    """The README of a converted model."""
    inputs = "".join(
        f"| input `{each['name']}` | {each['dtype']} ({', '.join('any' if n is None else str(n) for n in each['shape'])}) |\n"
        for each in card["inputs"]
    )
    nodes = card["nodes"] or {}
    outputs = "".join(
        f"| output `{name}` | {f'node `{nodes[name]}`' if name in nodes else ''} |\n" for name in card["outputs"]
    )
    checked = "Its answers were not compared with those of the SavedModel."
    if card["checked"]:
        checked = (
            f"{card['checked']['requests']} requests had the answers of the SavedModel in {card['runtime']}; the largest "
            f"difference was {card['checked']['largest_difference']:.1g}."
        )
    left_out = "".join(f"- {sentence}\n" for sentence in card["not_kept"])
    return f"""# {card["name"]} for {card["to"]}

`{card["file"]}` was made from a SavedModel of embkeras {card["embkeras"]} by {card["converter"]}. {checked}

| | |
|---|---|
{inputs}{outputs}
## What it doesn't do

{left_out or "Nothing is left out."}"""

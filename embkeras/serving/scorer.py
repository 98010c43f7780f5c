"""BatchScorer: a model that travels as a path to the processes of an engine, and adds its answers to their frames."""

import functools
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embkeras._checks import one_of, shown, whole_number
from embkeras.errors import ArgumentError
from embkeras.serving.names import LONG_TEXTS, read_card, saved_model_folder
from embkeras.serving.predictions import Threshold, no_scores, outputs_of, prediction_table

if TYPE_CHECKING:
    import pandas as pd

    from embkeras.serving.local import ExportedModel

_TEXT = "text"
_KEPT = 2  # models that a worker keeps loaded
_LOADING = threading.Lock()


class BatchScorer:
    """A callable for the workers of Spark, Dask, Ray or multiprocessing: pickled as a path and settings.

    Called with texts, it returns what `ExportedModel.predict` returns for them. Called with a pandas DataFrame, it returns the
    frame, index included, with the columns of predictions behind its own. A worker loads the model once, with the first
    rows; a frame without rows is answered without loading it, which shows the columns and their types.

    The same rows in one call get the same bits in every process. Other parts of the texts make other batches, which
    changes scores by rounding.

    Args:
        path: the model's folder (its highest version now is taken, by all workers) or the folder of one version.
        column: of a DataFrame, the column with the text; for a model with several inputs, a dictionary of columns by
            input. By default "text", or the names of the inputs.
        batch_size: as for `ExportedModel.predict`.
        long_texts: as for `ExportedModel.predict`.
        threshold: as for `ExportedModel.predict`.
        threads: of TensorFlow in a worker, where TensorFlow has not begun: engines run a worker for each core. The
            process that made the scorer keeps its own number.

    Raises:
        SavedModelError: there is no export.
        ArgumentError: an argument of another type or outside its choices.

    Examples:
        >>> scorer = BatchScorer("saved_models/tweets", column="review")  # doctest: +SKIP
        >>> with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:  # doctest: +SKIP
        ...     scored = pd.concat(pool.map(scorer, parts))

        Spark, then Dask:

        >>> frame.mapInPandas(lambda parts: map(scorer, parts), schema)  # doctest: +SKIP
        >>> frame.map_partitions(scorer, meta=scorer(frame._meta))  # doctest: +SKIP
    """

    _model: "ExportedModel | None" = None
    _in_worker = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        column: str | Mapping[str, str] | None = None,
        batch_size: int = 256,
        long_texts: str | None = None,
        threshold: Threshold = None,
        threads: int = 1,
    ):
        self.folder = saved_model_folder(path).absolute()
        self.column = _checked_column(column, self._known)
        self.batch_size = whole_number(batch_size, "batch_size", least=1)
        self.long_texts = None if long_texts is None else one_of(long_texts, "long_texts", LONG_TEXTS)
        self.threshold = threshold
        self.threads = whole_number(threads, "threads", least=1)

    def __call__(self, texts: "Sequence[str] | Mapping[str, Any] | pd.DataFrame") -> "pd.DataFrame":
        """One row for each text, or the frame with columns for the predictions.

        Args:
            texts: as for `ExportedModel.predict`, or a frame with the column, or columns, of texts.

        Returns:
            A table with one row per text, in their order; a frame keeps its columns and its index.

        Raises:
            ArgumentError: a frame without a column of texts, or with one that a column of predictions would be named like;
                and as `ExportedModel.predict`.
        """
        pandas = sys.modules.get("pandas")  # without pandas there is no frame
        if pandas is None or not isinstance(texts, pandas.DataFrame):
            return self._predicted(texts)
        columns = self._columns_of(texts)
        given = {name: texts[column].tolist() for name, column in columns.items()}
        known = self._known
        predicted = self._predicted(given if len(known) > 1 else given[known[0]]) if len(texts) else self._no_rows()
        answers = predicted.iloc[:, len(known) :].set_axis(texts.index)
        twice = [name for name in answers if name in texts]
        if twice:
            raise ArgumentError(
                f"The frame has a column {twice[0]!r}, which predictions are to have: rename it, or pass the other columns "
                f"only. Received: {', '.join(map(str, texts))}."
            )
        return pandas.concat([texts, answers], axis=1)

    @property
    def _known(self) -> list[str]:
        return [each["name"] for each in self._card["inputs"]]

    @property
    def _card(self) -> dict[str, Any]:
        return read_card(self.folder / "assets")

    def _columns_of(self, frame: "pd.DataFrame") -> Mapping[str, str]:
        """The column of each input."""
        known = self._known
        of_one = {known[0]: _TEXT} if len(known) == 1 else {name: name for name in known}
        columns = of_one if self.column is None else self.column
        missing = [column for column in columns.values() if column not in frame]
        if missing:
            raise ArgumentError(
                f"The frame has no column {missing[0]!r}: name the one with the texts, BatchScorer(path, column=...). "
                f"Received: {', '.join(map(str, frame)) or 'no columns'}."
            )
        return columns

    def _predicted(self, texts: Any) -> "pd.DataFrame":
        settings: dict[str, Any] = {"batch_size": self.batch_size, "long_texts": self.long_texts}
        return self._loaded().predict(texts, threshold=self.threshold, **settings)

    def _loaded(self) -> "ExportedModel":
        if self._model is None:
            if self._in_worker:
                with _LOADING:  # a worker of several threads loads it once too
                    changed = (self.folder / "saved_model.pb").stat().st_mtime_ns
                    self._model = _in_this_process(self.folder, changed, self.threads)
            else:
                from embkeras.serving.local import ExportedModel

                self._model = ExportedModel(self.folder)
        return self._model

    def _no_rows(self) -> "pd.DataFrame":
        """The table of no texts, with the types of any other."""
        card = self._card
        shapes = {name: (1, *each.shape[1:]) for name, each in no_scores(card, outputs_of(card, None)).items()}
        scores = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        inputs = {name: [""] for name in self._known}
        return prediction_table(inputs, scores, card, repr(str(self.folder)), self.threshold).iloc[:0]

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the loaded model."""
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _in_worker=True)


def _checked_column(column: Any, inputs: Sequence[str]) -> dict[str, str] | None:
    """The columns by input."""
    if column is None:
        return None
    by_input = {inputs[0]: column} if isinstance(column, str) and len(inputs) == 1 else column
    if not isinstance(by_input, Mapping) or set(by_input) != set(inputs):
        what = "the name of a column" if len(inputs) == 1 else f"a dictionary of columns by input: {', '.join(inputs)}"
        raise ArgumentError(f"column must be {what}. Received: {shown(column)}.")
    return dict(by_input)


@functools.lru_cache(maxsize=_KEPT)
def _in_this_process(folder: Path, changed: int, threads: int) -> "ExportedModel":
    """One model for all copies of a scorer that an engine delivers to this process."""
    from embkeras._threads import limit_threads
    from embkeras.serving.local import ExportedModel

    limit_threads(threads)
    return ExportedModel(folder)

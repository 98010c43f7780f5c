"""A client for TensorFlow Serving, over REST or gRPC."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embkeras._checks import flag, number, one_of, whole_number
from embkeras.encoders.spans import LONGEST, SPAN_OUTPUTS, SpanAnswer, decode_spans
from embkeras.errors import ArgumentError, ServingError
from embkeras.serving import names
from embkeras.serving.batches import in_batches, padded
from embkeras.serving.columns import (
    asked_tower,
    check_range,
    encoded_inputs,
    named_inputs,
    only_token_ids,
    part_of_card,
    request_arrays,
    tower_of,
    with_leading_padding,
)
from embkeras.serving.predictions import Threshold, no_scores, outputs_of, prediction_table
from embkeras.serving.served import Served, parsed_metadata
from embkeras.serving.text_encoder import TextEncoder, id_rows
from embkeras.serving.transports import TRANSPORTS, Gone, attempted, checked_headers, parsed_url

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class ServingClient:
    """Queries a model that `export_saved_model` wrote and TensorFlow Serving serves.

    With an encoder, the client compares the server's vocabulary with its own before it sends anything. A server switches to
    a new version as soon as one appears, so each request names the version that was compared; every `refresh` seconds, and
    when the version is gone, the client looks for a newer one and compares again. All scores of one call come from one
    version.

    A request is sent again if the server was not there, closed the connection before it answered, or was not ready
    (503, UNAVAILABLE), and never after a timeout: the server may still be working on it.

    Args:
        url: "http://host:8501" (REST; "https" too), or "grpc://host:8500" (gRPC; "grpcs" with TLS; extra `serving`).
        model: the model's name at the server; by default the name of the folder that the encoder was read from.
        encoder: a `TextEncoder`, or the path of one; `predict` needs it.
        version: use only this version: a number, or a label of the server's settings such as "stable".
        timeout: seconds for one request to the server, retries included; a call makes one request per batch.
        retries: how often a request is sent again where that is safe.
        batch_size: texts per request; texts of similar length go together.
        leading_padding: send a padding id in front of each text. A server that batches requests of different lengths pads
            them with their first number, and the export ignores padding.
        long_texts: what `predict` does with a text of more tokens than the model takes: "cut" drops its end (or its
            beginning, with padding in front), "error" refuses it. By default as the model was exported.
        refresh: seconds after which the client looks for a newer version.
        headers: sent with each request, such as {"Authorization": ...}.

    Raises:
        ArgumentError: another kind of URL, or another argument outside its range.
        MissingDependencyError: a gRPC URL, without the packages of the extra `serving`.
        SavedModelError: the encoder's path contains no assets of an export.

    Examples:
        >>> with ServingClient("http://localhost:8501", encoder="saved_models/tweets") as client:  # doctest: +SKIP
        ...     client.predict(["What a lovely day"])
                        text     label  probability
        0  What a lovely day  positive         0.93
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        encoder: TextEncoder | str | os.PathLike[str] | None = None,
        version: int | str | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        batch_size: int = 64,
        leading_padding: bool = True,
        long_texts: str | None = None,
        refresh: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ):
        if not (encoder is None or isinstance(encoder, TextEncoder | str | os.PathLike)):
            raise ArgumentError(
                f"encoder must be a TextEncoder or the path of one. Received: {type(encoder).__name__}."
            )
        self.encoder = TextEncoder(encoder) if isinstance(encoder, str | os.PathLike) else encoder
        name = self.encoder.model_name if model is None and self.encoder is not None else model
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"model must be the name of the model at the server. Received: {name!r}.")
        self.model = name
        self.timeout = number(timeout, "timeout", above=0)
        self.refresh = number(refresh, "refresh", least=0)
        self.retries = whole_number(retries, "retries", least=0)
        self.batch_size = whole_number(batch_size, "batch_size", least=1)
        if isinstance(version, str) and not version:
            raise ArgumentError("version must be a number or a label. Received: ''.")
        if version is not None and not isinstance(version, str):
            version = whole_number(version, "version", least=0, most=names.LARGEST_VERSION)
        self.version = version
        self.leading_padding = flag(leading_padding, "leading_padding")
        self.long_texts = None if long_texts is None else one_of(long_texts, "long_texts", names.LONG_TEXTS)
        parts = parsed_url(url)
        self._transport = TRANSPORTS[parts.scheme](parts, checked_headers(headers))
        self._source = f"Model {name!r} at {self._transport.where}"  # for messages
        self._known: tuple[float, Served] | None = None

    def scores(self, token_ids: Any, *, output: str = "scores") -> np.ndarray:
        """The scores of token ids.

        Args:
            token_ids: integers of shape (batch, time), or one sequence of integers per text; for a model with several
                inputs, or one of another shape, a dictionary of arrays by input, each with the batch first.
            output: which output of a model with several; "classes" is the class names, as an array of strings.

        Returns:
            Shape (batch, classes), in the order of the ids; of a tagger (batch, time, classes), zeros on padding.

        Raises:
            ArgumentError: ids that are not integers or, with an encoder, outside [0, V); an input that is missing, unknown
                or of another shape.
            SavedModelError: the server's vocabulary is not the encoder's.
            ServingError: the server can't be reached, refuses the request, or returns an invalid answer.
            ServingTimeoutError: it takes longer.
        """
        return self._scores(token_ids if isinstance(token_ids, Mapping) else self._rows(token_ids), output)[0]

    def vectors(self, token_ids: Any) -> list[np.ndarray]:
        """The rows of the embedding table for the ids of each text, without padding.

        They are those of the signature `embed`, which a model with exactly one embkeras embedding has.

        Args:
            token_ids: integers of shape (batch, time), or one sequence of integers per text.

        Returns:
            One array for each text, float32 of shape (tokens, width).

        Raises:
            EmbkerasError: as for `scores`.
        """
        rows = self._rows(token_ids)
        return self._from_one_version(lambda served: self._vectors_of(served, rows))[0]

    def tower_vectors(self, tower: str, inputs: Any) -> np.ndarray:
        """The vectors of a tower.

        Args:
            tower: its name in the export.
            inputs: a dictionary of the inputs that it reads, one value for each row: ids or, with an encoder, texts; what it
                takes alone needs no name.

        Returns:
            float32 of shape (batch, width), in the order of the inputs.

        Raises:
            EmbkerasError: as for `scores`.
            ArgumentError: there is no such tower.
        """

        def ask(served: Served) -> np.ndarray:
            described = tower_of(served.card, tower, self._source)
            found = [np.zeros((0, described["width"]), np.float32)]
            for places, part in self._batches_of_tower(served, described, inputs):
                found.append(self._ask(served.version, tower, part, names.VECTORS))
                served.check_answer(found[-1], (len(places), described["width"]), places)
            return np.concatenate(found).astype(np.float32)

        return self._from_one_version(ask)[0]

    def nearest(self, inputs: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The k vectors of the last tower that are most similar to each row's, best first, as `ExportedModel.nearest`.

        Args:
            inputs: those of the first tower, as for `tower_vectors`.
            k: how many.

        Returns:
            int64 ids (batch, k) and float32 scores (batch, k).

        Raises:
            EmbkerasError: as for `scores`.
            ArgumentError: `k` is outside [1, number of candidates].
            SavedModelError: the export has nothing to search.
        """

        def ask(served: Served) -> tuple[np.ndarray, np.ndarray]:
            described, most = asked_tower(served.card, k, self._source)
            found, scores = [np.zeros((0, most), np.int64)], [np.zeros((0, most), np.float32)]
            for places, part in self._batches_of_tower(served, described, inputs):
                part[names.K] = np.full(len(places), most, np.int32)
                answers = self._ask_all(served.version, names.NEAREST, part, [names.NEIGHBOURS, names.SCORES])
                for answer, kinds in zip(answers, ("iu", "fiu"), strict=True):
                    served.check_answer(
                        answer[:, :most] if answer.ndim == 2 else answer, (len(places), most), places, kinds
                    )
                # A server that batches requests answers with as many columns as the largest k of them.
                found.append(answers[0][:, :most].astype(np.int64))
                scores.append(answers[1][:, :most].astype(np.float32))
            return np.concatenate(found), np.concatenate(scores)

        return self._from_one_version(ask)[0]

    def _rows(self, token_ids: Any) -> list[np.ndarray]:
        """The ids of each text."""
        rows = id_rows(token_ids)
        if self.encoder is not None:
            size = self.encoder.size
            for place, row in enumerate(rows):
                outside = row[(row < 0) | (row >= size)]
                if outside.size:
                    raise ArgumentError(f"token_ids must lie in [0, {size}). Received: {outside[0]} at text {place}.")
        return rows

    def predict(
        self, texts: Sequence[str] | Mapping[str, Any], *, output: str | None = None, threshold: Threshold = None
    ) -> "pd.DataFrame":
        """One row per text: `text`, `label`, `probability` of the best class; more as for `ExportedModel.predict`.

        The class names are those of the version that answered.

        Args:
            texts: the texts; for a model with several inputs, a dictionary by input of texts, single tokens, ids or numbers,
                one for each row.
            output: which output of a model with several; by default all.
            threshold: the probability from which a label counts, where a sigmoid makes one for each: a number in [0, 1] for
                all, a sequence with one for each label, or a dictionary by label, 0.5 for those that it doesn't name.

        Returns:
            A table with one row per text, in their order.

        Raises:
            ArgumentError: not a sequence of strings, a text that is too long for long_texts="error", or a client without an
                encoder.
            VocabularyError: the vocabulary was saved without a tokenizer, or a text is not valid Unicode.
            SavedModelError: the model doesn't return one score per class, or the server's vocabulary is not the encoder's.
            ServingError: as for `scores`.
        """
        if self.encoder is None:
            raise ArgumentError("predict needs an encoder, to turn texts into ids: ServingClient(..., encoder=PATH).")
        card = self.encoder.card
        shown_inputs, named = named_inputs(texts, card)
        long_texts = names.long_texts_of(card, self.long_texts)
        outputs = outputs_of(card, output)
        if not any(len(values) for values in named.values()):
            return prediction_table(shown_inputs, no_scores(card, outputs), card, self._source, threshold)
        inputs = encoded_inputs(named, card, self.encoder.vocabularies, long_texts)
        rows = inputs[names.TOKEN_IDS] if only_token_ids(card) else inputs

        def ask(served: Served) -> dict[str, np.ndarray]:
            return {name: self._scores_of(served, rows, name) for name in outputs}

        scores, served = self._from_one_version(ask)
        return prediction_table(shown_inputs, scores, served.card, self._source, threshold)

    def answer(
        self,
        question: str,
        context: str,
        *,
        length: int | None = None,
        stride: int | None = None,
        max_pieces: int = LONGEST,
        threshold: float | None = None,
    ) -> SpanAnswer:
        """The answer to a question as a span of a context: `text`, `score`, and its characters from `start` to `end`.

        Args:
            question: the question.
            context: the text that may answer it. A long one is read in several windows, and the best answer counts.
            length: the most pieces of a window; by default 384, or as many as the model takes. Best is what it was trained on.
            stride: pieces from the start of one window to that of the next; by default half of what fits into one.
            max_pieces: the most pieces of an answer.
            threshold: the answer is "" where its `no_answer` is above, as for `decode_spans`. By default there is one.

        Returns:
            The answer; its `text` is "" if the context has none.

        Raises:
            ArgumentError: not texts, a client without an encoder, or another argument outside its range.
            SavedModelError: the model wasn't made by `build_span_model`, or the server's vocabulary is not the encoder's.
            ServingError: as for `scores`.

        Examples:
            >>> with ServingClient("http://localhost:8501", encoder="saved_models/facts") as client:  # doctest: +SKIP
            ...     client.answer("Where does Anna live?", "Anna lives in Graz. She is a nurse.")
            SpanAnswer(text='Graz', score=0.98, start=14, end=18, no_answer=0.01)
        """
        if self.encoder is None:
            raise ArgumentError("answer needs an encoder, to turn texts into ids: ServingClient(..., encoder=PATH).")
        windows = self.encoder.encode_question(question, context, length=length, stride=stride)

        def ask(served: Served) -> dict[str, np.ndarray]:
            found = {name: np.zeros(windows.ids.shape, np.float32) for name in SPAN_OUTPUTS}
            for name in found:
                served.output(name)
            leads = self._leads(served, names.TOKEN_IDS)
            for places, inputs in self._batches(served, list(windows.ids)):
                signature, inputs = self._compacted(served, inputs)
                answers = self._ask_all(served.version, signature, inputs, SPAN_OUTPUTS)
                for name, answer in zip(SPAN_OUTPUTS, answers, strict=True):
                    served.check_answer(answer, (len(places), windows.ids.shape[1] + leads), places)
                    found[name][places] = answer[:, leads:]
            return found

        scores, _ = self._from_one_version(ask)
        return decode_spans(scores, windows, max_pieces=max_pieces, threshold=threshold)[0]

    def metadata(self) -> dict[str, Any]:
        """What the server offers now.

        Nothing is compared with the encoder.

        Returns:
            `model`, `version`, `signatures`, and the export's `card`.

        Raises:
            ServingError: as for `scores`.
        """
        served = self._fetch()
        card = None if served.card is None else dict(served.card)
        return {"model": self.model, "version": served.version, "signatures": dict(served.signatures), "card": card}

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> "ServingClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scores(self, rows: Sequence[np.ndarray] | Mapping[str, Any], output: str) -> tuple[np.ndarray, Served]:
        """One output for texts, and the version that all of it comes from."""
        return self._from_one_version(lambda served: self._scores_of(served, rows, output))

    def _from_one_version(self, ask: Callable[[Served], T]) -> tuple[T, Served]:
        """What a function gets from a version, and the version; once more if the server drops it in the middle."""
        served = self._served()
        try:
            return ask(served), served
        except Gone:  # the server dropped that version: start over with a newer one
            served = self._served(refetch=True)
        return ask(served), served

    def _vectors_of(self, served: Served, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The vectors of one version, batch by batch."""
        _, shape = served.output(names.VECTORS, names.EMBED)
        padding_id = served.padding_id
        found: dict[int, np.ndarray] = {}
        for places in in_batches(rows, self.batch_size, mixed=padding_id is not None):
            ids = padded([rows[place] for place in places], padding_id, leading=self.leading_padding)
            answer = self._ask(served.version, names.EMBED, {names.TOKEN_IDS: ids}, names.VECTORS)
            served.check_answer(answer, (*ids.shape, *shape[2:]), places)
            start = int(self.leading_padding and padding_id is not None)
            for place, vectors in zip(places, answer, strict=True):
                found[int(place)] = vectors[start : start + len(rows[place])].astype(np.float32)
        return [found[place] for place in range(len(rows))]

    def _scores_of(self, served: Served, rows: Sequence[np.ndarray] | Mapping[str, Any], output: str) -> np.ndarray:
        """One output of one version, batch by batch."""
        dtype, shape = served.output(output, by_input=isinstance(rows, Mapping))
        batches = self._batches_of_inputs(served, rows) if isinstance(rows, Mapping) else self._batches(served, rows)
        leader = served.token_input(output)
        answers: list[tuple[np.ndarray, np.ndarray]] = []
        for places, inputs in batches:
            signature, inputs = self._compacted(served, inputs)
            answer = self._ask(served.version, signature, inputs, output)
            if answer.dtype.name == "bfloat16":
                answer = answer.astype(np.float32)
            if dtype.kind == "O":
                answer = _strings(answer)
            served.check_answer(answer, (len(places), *shape[1:]), places, "U" if dtype.kind == "O" else "fiu")
            if leader is not None:
                answer = answer[:, self._leads(served, leader) :]
            elif answers and answer.shape[1:] != answers[0][1].shape[1:]:
                raise ServingError(
                    f"{self._source} returned answers of different shapes per text: {answers[0][1].shape[1:]}, then "
                    f"{answer.shape[1:]}."
                )
            answers.append((places, answer))
        if not answers:
            return np.empty((0, *(size or 0 for size in shape[1:])), dtype)
        ends = [max(sizes) for sizes in zip(*(answer.shape[1:] for _, answer in answers), strict=True)]
        scores = np.zeros((sum(len(places) for places, _ in answers), *ends), dtype)
        for places, answer in answers:  # those for each token of shorter texts end in zeros
            if answer.ndim > 1:
                scores[places, : answer.shape[1]] = answer
            else:
                scores[places] = answer
        return scores

    def _batches(
        self, served: Served, rows: Sequence[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Texts of similar length, with their places."""
        padding_id = served.padding_id
        for places in in_batches(rows, self.batch_size, mixed=padding_id is not None):
            ids = padded([rows[place] for place in places], padding_id, leading=self.leading_padding)
            yield places, {names.TOKEN_IDS: ids}

    def _batches_of_inputs(
        self, served: Served, inputs: Mapping[str, Any]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Rows of several inputs in their order, with their places."""
        if served.card is None:
            raise ServingError(f"{self._source} has no card that describes its inputs: export the model again.")
        yield from self._in_batches(inputs, served.card)

    def _batches_of_tower(
        self, served: Served, tower: Mapping[str, Any], inputs: Any
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Rows of the inputs of a tower, with their places; texts as ids."""
        card = part_of_card(served.card or {"inputs": []}, tower["inputs"])
        encodings = {} if self.encoder is None else self.encoder.vocabularies
        policy = names.long_texts_of(served.card or {}, self.long_texts)
        return self._in_batches(encoded_inputs(inputs, card, encodings, policy), card)

    def _in_batches(
        self, inputs: Mapping[str, Any], card: Mapping[str, Any]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Rows of the inputs that a card lists."""
        arrays = request_arrays(inputs, card)
        if self.encoder is not None:
            check_range(arrays, card)
        if self.leading_padding:
            arrays = with_leading_padding(arrays, card)
        count = len(next(iter(arrays.values())))
        for start in range(0, count, self.batch_size):
            places = np.arange(start, min(start + self.batch_size, count))
            yield places, {name: array[places] for name, array in arrays.items()}

    def _leads(self, served: Served, leader: str) -> int:
        """How many entries of padding this client puts in front of each text of an input."""
        return int(self.leading_padding and served.has_padding(leader))

    def _compacted(self, served: Served, inputs: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
        """The signature to call, and its inputs: int32 ids where that takes fewer bytes."""
        return served.compacted(inputs) if self._transport.compact else (names.SERVING, inputs)

    def _served(self, *, refetch: bool = False) -> Served:
        """The version to query, compared with the encoder."""
        known = self._known
        if refetch or known is None or time.monotonic() - known[0] >= self.refresh:
            # Without a lock: threads that wait for each other would wait longer than `timeout`.
            served = self._fetch()
            if self.encoder is not None:
                served.check_encoder(self.encoder)
            self._known = known = time.monotonic(), served
        return known[1]

    def _fetch(self) -> Served:
        """What the server offers now."""

        def ask(seconds: float) -> Any:
            return self._transport.metadata(self.model, self.version, seconds)

        answer = attempted(ask, self.timeout, self.retries)
        version, signatures = parsed_metadata(answer, self._source)
        if set(signatures.get(names.CARD, {}).get("inputs", {})) != {names.REQUEST}:
            return Served(self._source, version, signatures, None)
        texts = self._ask(version, names.CARD, {names.REQUEST: np.zeros(1, np.int32)}, names.CARD).ravel().tolist()
        card = names.parsed_card(texts[0] if len(texts) == 1 else "", self._source, ServingError)
        return Served(self._source, version, signatures, card)

    def _ask(self, version: int, signature: str, inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """One output of a signature."""
        return self._ask_all(version, signature, inputs, [output])[0]

    def _ask_all(
        self, version: int, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> list[np.ndarray]:
        """Some outputs of a signature, from one request."""

        def ask(seconds: float) -> list[np.ndarray]:
            return self._transport.ask(self.model, version, signature, inputs, outputs, seconds)

        return attempted(ask, self.timeout, self.retries)


def _strings(answer: np.ndarray) -> np.ndarray:
    """Strings of an answer as NumPy's: gRPC sends bytes. Anything else stays what it is."""
    values = answer.ravel().tolist()
    if not all(isinstance(value, str | bytes) for value in values):
        return answer
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    return np.array(texts, str).reshape(answer.shape)

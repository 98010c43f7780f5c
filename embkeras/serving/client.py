"""Asking TensorFlow Serving, over REST or gRPC."""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from embkeras.errors import ArgumentError, SavedModelError, ServingError
from embkeras.serving import names
from embkeras.serving.attempts import Gone, attempted
from embkeras.serving.requests import check_ids, check_number, filled, headers_of, in_batches, rows_of, url_of
from embkeras.serving.rest import RestTransport
from embkeras.serving.rpc import RpcTransport
from embkeras.serving.served import Served, check_answer, has_card, offer_of, parsed_card
from embkeras.serving.text_encoder import Encoder, labelled

_TRANSPORTS = {"http": RestTransport, "https": RestTransport, "grpc": RpcTransport, "grpcs": RpcTransport}
_INT32 = np.iinfo(np.int32)


class ServingClient:
    """Asks a model that `export_saved_model` wrote, and that TensorFlow Serving serves.

    With an encoder, the server's vocabulary is compared with the client's before anything is asked. A server changes to
    a new version whenever one appears, so each request names the version that was compared; every `refresh` seconds, and
    when the version is gone, the client looks for a newer one and compares again. The scores of one call are all of one
    version.

    Requests are sent again where the server was not there, broke off before it answered, or said that it is not ready
    (503, UNAVAILABLE), and never after a time-out: the server may still be at work on the first.

    Args:
        url: "http://host:8501" (REST; "https" too), or "grpc://host:8500" (gRPC; "grpcs" with TLS; extra `serving`).
        model: its name at the server; by default that of the folder that the encoder was read from.
        encoder: an `Encoder`, or the path of one; `predict` needs it.
        version: ask this version and no other.
        timeout: seconds for one request to the server, its retries included; a call makes one for each batch.
        retries: how often a request is sent again where that is safe.
        batch_size: texts a request; texts of like lengths go together.
        leading_padding: send a padding id in front of each text: a server that batches requests of several lengths fills
            them up with their first number, and the export takes no notice of padding.
        refresh: seconds after which a newer version is looked for.
        headers: sent with each request, such as {"Authorization": ...}.

    Raises:
        ArgumentError: a URL of another kind, or another argument outside its range.
        MissingDependencyError: a gRPC URL, without the packages of the extra `serving`.
        SavedModelError: the path of the encoder holds no assets of an export.

    Example:
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
        encoder: Encoder | str | os.PathLike | None = None,
        version: int | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        batch_size: int = 64,
        leading_padding: bool = True,
        refresh: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ):
        self.encoder = Encoder(encoder) if isinstance(encoder, str | os.PathLike) else encoder
        if not (self.encoder is None or isinstance(self.encoder, Encoder)):
            raise ArgumentError(f"encoder must be an Encoder or the path of one. Received: {type(encoder).__name__}.")
        self.model = model if model is not None else self.encoder and self.encoder.model_name
        if not isinstance(self.model, str) or not self.model:
            raise ArgumentError(f"model must be the name of the model at the server. Received: {self.model!r}.")
        check_number("timeout", timeout, above=0)
        check_number("refresh", refresh, least=0)
        check_number("retries", retries, least=0, whole=True)
        check_number("batch_size", batch_size, least=1, whole=True)
        if version is not None:
            check_number("version", version, least=0, whole=True)
        self.version, self.timeout, self.retries, self.batch_size = version, timeout, retries, batch_size
        self.leading_padding, self.refresh = bool(leading_padding), refresh
        parts = url_of(url, _TRANSPORTS)
        self._transport = _TRANSPORTS[parts.scheme](parts, headers_of(headers))
        self._known: tuple[float, Served] | None = None

    def scores(self, token_ids: Any, *, output: str = "scores") -> np.ndarray:
        """Scores of shape (batch, classes), in the order of the ids.

        Args:
            token_ids: integers of shape (batch, time), or one sequence of integers a text.
            output: which output of a model with several.

        Raises:
            ArgumentError: ids that are not integers or, with an encoder, outside [0, V).
            SavedModelError: the server's vocabulary is not the encoder's.
            ServingError: the server cannot be reached, refuses the request, or gives an answer that is none.
            ServingTimeoutError: it takes longer.
        """
        rows = rows_of(token_ids)
        if self.encoder is not None:
            check_ids(rows, self.encoder.size)
        return self._scores(rows, output)[0]

    def predict(self, texts: Sequence[str]) -> pd.DataFrame:
        """One row a text: `text`, `label`, `probability` of the best class.

        The classes' names are those of the version that answered.

        Raises:
            ArgumentError: a single string, or a client without an encoder.
            VocabularyError: the vocabulary was saved without a tokenizer, or a text is not valid Unicode.
            SavedModelError: the model does not give one score a class, or the server's vocabulary is not the encoder's.
            ServingError: as for `scores`.
        """
        if self.encoder is None:
            raise ArgumentError("predict needs an encoder, which makes ids of texts: ServingClient(..., encoder=PATH).")
        if isinstance(texts, str):
            raise ArgumentError(f"texts must be a sequence of texts. Received the string {texts[:40]!r}.")
        texts = list(texts)
        if not texts:
            return pd.DataFrame({"text": [], "label": [], "probability": []})
        scores, served = self._scores([self.encoder.vocabulary.encode(text) for text in texts], "scores")
        return labelled(texts, scores, served.card["class_names"], self._whose)

    def metadata(self) -> dict[str, Any]:
        """What the server offers at this moment: `model`, `version`, `signatures`, and the export's own `card`.

        Nothing is compared with the encoder.

        Raises:
            ServingError: as for `scores`.
        """
        served = self._fetch()
        card = None if served.card is None else dict(served.card)
        return {"model": self.model, "version": served.version, "signatures": dict(served.signatures), "card": card}

    def close(self) -> None:
        """Give up the connection."""
        self._transport.close()

    def __enter__(self) -> "ServingClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scores(self, rows: Sequence[np.ndarray], output: str) -> tuple[np.ndarray, Served]:
        """One output for texts, and the version that all of it is from."""
        served = self._served()
        try:
            return self._from(served, rows, output), served
        except Gone:  # the server let go of that version: all over again with a newer one
            served = self._served(anew=True)
        return self._from(served, rows, output), served

    def _from(self, served: Served, rows: Sequence[np.ndarray], output: str) -> np.ndarray:
        """One output of one version, batch by batch."""
        dtype, shape = served.output(names.SERVING, names.TOKEN_IDS, output, self._whose)
        scores = None
        for places in in_batches(rows, self.batch_size, mixed=served.padding_id is not None):
            ids = filled([rows[place] for place in places], served.padding_id, leading=self.leading_padding)
            signature, ids = self._narrow(served, ids)
            answer = self._ask(served.version, signature, {names.TOKEN_IDS: ids}, output)
            check_answer(answer, (len(places), *shape[1:]), places, self._whose)
            if scores is None:
                scores = np.empty((len(rows), *answer.shape[1:]), dtype)
            elif answer.shape[1:] != scores.shape[1:]:
                shapes = f"{scores.shape[1:]} a text, and then {answer.shape[1:]}"
                raise ServingError(f"{self._whose} gave answers of shape {shapes}.")
            scores[places] = answer
        return np.empty((0, *(size or 0 for size in shape[1:])), dtype) if scores is None else scores

    def _narrow(self, served: Served, ids: np.ndarray) -> tuple[str, np.ndarray]:
        """The signature to ask, and its ids: int32 where that takes fewer bytes and every id fits."""
        fit = not ids.size or (_INT32.min <= ids.min() and ids.max() <= _INT32.max)
        if fit and self._transport.compact and names.SERVING_INT32 in served.signatures:
            return names.SERVING_INT32, ids.astype(np.int32)
        return names.SERVING, ids

    def _served(self, *, anew: bool = False) -> Served:
        """The version that is asked, compared with the encoder."""
        known = self._known
        if anew or known is None or time.monotonic() - known[0] >= self.refresh:
            served = (
                self._fetch()
            )  # without a lock: threads that waited for each other would wait longer than `timeout`
            self._compare(served)
            self._known = known = time.monotonic(), served
        return known[1]

    def _fetch(self) -> Served:
        """What the server offers now."""
        answer = self._attempted(lambda seconds: self._transport.metadata(self.model, self.version, seconds))
        version, signatures = offer_of(answer, self._whose)
        if not has_card(signatures):
            return Served(version, signatures, None)
        said = self._ask(version, names.ABOUT, {names.ASKED: np.zeros(1, np.int32)}, names.CARD)
        return Served(version, signatures, parsed_card(said, self._whose))

    def _compare(self, served: Served) -> None:
        """Refuse a vocabulary that is not the encoder's."""
        if self.encoder is None:
            return
        if served.card is None:
            raise SavedModelError(
                f"{self._whose}, version {served.version}, does not say which vocabulary it has (no signature "
                f"{names.ABOUT!r}): export it again, or ask without an encoder."
            )
        fingerprint = served.card["vocabulary_fingerprint"]
        if fingerprint != self.encoder.fingerprint:
            raise SavedModelError(
                f"{self._whose}, version {served.version}, has another vocabulary than the encoder: ids would mean other "
                f"words. Received: {served.card['vocabulary_size']} tokens, fingerprint {fingerprint}; the encoder's are "
                f"{self.encoder.size} and {self.encoder.fingerprint}."
            )
        cuts = served.card.get("tokenizer_fingerprint", self.encoder.tokenizer_fingerprint)
        if cuts != self.encoder.tokenizer_fingerprint:
            raise SavedModelError(
                f"{self._whose}, version {served.version}, has another tokenizer than the encoder: texts would become other "
                f"ids. Received: fingerprint {cuts}; the encoder's is {self.encoder.tokenizer_fingerprint}."
            )

    def _ask(self, version: int, signature: str, inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        ask = functools.partial(self._transport.ask, self.model, version, signature, inputs, output)
        return self._attempted(ask)

    def _attempted(self, ask: Callable[[float], Any]) -> Any:
        return attempted(ask, self.timeout, self.retries)

    @property
    def _whose(self) -> str:
        """Who is at fault, for messages."""
        return f"Model {self.model!r} at {self._transport.where}"

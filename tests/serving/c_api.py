"""A SavedModel in the TensorFlow C API of the wheel, through ctypes: no Python TensorFlow, no Keras.

This is the runtime that TensorFlow Serving wraps. Names of tensors come from the SavedModel's own signatures, which the
C API gives as the bytes of a MetaGraphDef. As a program it answers lines of JSON:

    python -m tests.serving.c_api FOLDER        # {"signature": "serving_default", "token_ids": [[2, 3]]}

The functions are those of tensorflow/c/c_api.h, tf_tensor.h and tf_tstring.h in the wheel's `include`.
"""

import ctypes
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.serving.wire import INT32, INT64, NAMES, STRING, TYPES, fields, mapping

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_DIMS = ctypes.POINTER(ctypes.c_int64)
_STRING_BYTES = 24  # of a TF_TString
_SERVE = b"serve"
# result, arguments
_FUNCTIONS = {
    "TF_NewStatus": (_POINTER, []),
    "TF_GetCode": (_INT, [_POINTER]),
    "TF_Message": (ctypes.c_char_p, [_POINTER]),
    "TF_DeleteStatus": (None, [_POINTER]),
    "TF_NewGraph": (_POINTER, []),
    "TF_DeleteGraph": (None, [_POINTER]),
    "TF_NewBuffer": (_POINTER, []),
    "TF_NewBufferFromString": (_POINTER, [ctypes.c_char_p, _SIZE]),
    "TF_DeleteBuffer": (None, [_POINTER]),
    "TF_NewSessionOptions": (_POINTER, []),
    "TF_DeleteSessionOptions": (None, [_POINTER]),
    "TF_LoadSessionFromSavedModel": (
        _POINTER,
        [_POINTER, _POINTER, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), _INT, _POINTER, _POINTER, _POINTER],
    ),
    "TF_CloseSession": (None, [_POINTER, _POINTER]),
    "TF_DeleteSession": (None, [_POINTER, _POINTER]),
    "TF_GraphOperationByName": (_POINTER, [_POINTER, ctypes.c_char_p]),
    "TF_SessionRun": (
        None,
        [_POINTER, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER],
    ),
    "TF_AllocateTensor": (_POINTER, [_INT, _DIMS, _INT, _SIZE]),
    "TF_TensorFromProto": (None, [_POINTER, _POINTER, _POINTER]),
    "TF_DeleteTensor": (None, [_POINTER]),
    "TF_TensorType": (_INT, [_POINTER]),
    "TF_NumDims": (_INT, [_POINTER]),
    "TF_Dim": (ctypes.c_int64, [_POINTER, _INT]),
    "TF_TensorByteSize": (_SIZE, [_POINTER]),
    "TF_TensorData": (_POINTER, [_POINTER]),
    "TF_StringInit": (None, [_POINTER]),
    "TF_StringCopy": (None, [_POINTER, ctypes.c_char_p, _SIZE]),
    "TF_StringGetDataPointer": (_POINTER, [_POINTER]),
    "TF_StringGetSize": (_SIZE, [_POINTER]),
}


class CApiError(Exception):
    """What TensorFlow said, without a word of ours."""


class _Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", _POINTER), ("length", _SIZE), ("deallocator", _POINTER))


class _Output(ctypes.Structure):
    """TF_Output: a tensor of the graph."""

    _fields_ = (("operation", _POINTER), ("index", _INT))


@cache
def library() -> ctypes.CDLL:
    """The wheel's library, found without importing TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    # Each by itself and not RTLD_GLOBAL: their BoringSSL would take the place of the OpenSSL of Python's hashlib.
    framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
    loaded = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
    for name, (result, arguments) in _FUNCTIONS.items():
        home = loaded if hasattr(loaded, name) else framework
        function = getattr(home, name)
        function.restype, function.argtypes = result, arguments
        setattr(loaded, name, function)
    return loaded


class _Status:
    """A TF_Status that raises on leaving."""

    def __enter__(self):
        self.pointer = library().TF_NewStatus()
        return self.pointer

    def __exit__(self, *_):
        code, message = library().TF_GetCode(self.pointer), library().TF_Message(self.pointer)
        library().TF_DeleteStatus(self.pointer)
        if code:
            raise CApiError(message.decode("utf-8", "replace"))


class Tensor:
    """A TF_Tensor, freed with this object."""

    def __init__(self, pointer: int):
        self.pointer = pointer

    def __del__(self):
        library().TF_DeleteTensor(self.pointer)

    @classmethod
    def of(cls, value: np.ndarray) -> "Tensor":
        """A copy of an array; arrays of objects hold bytes and become strings."""
        strings = value.dtype == object
        size = value.size * _STRING_BYTES if strings else value.nbytes
        dims = (ctypes.c_int64 * max(value.ndim, 1))(*value.shape)
        kind = STRING if strings else TYPES[value.dtype.name]
        tensor = cls(library().TF_AllocateTensor(kind, dims, value.ndim, size))
        data = library().TF_TensorData(tensor.pointer)
        if strings:
            for place, text in enumerate(value.ravel()):
                library().TF_StringInit(data + place * _STRING_BYTES)
                library().TF_StringCopy(data + place * _STRING_BYTES, text, len(text))
        elif size:
            ctypes.memmove(data, np.ascontiguousarray(value).ctypes.data, size)
        return tensor

    @classmethod
    def from_proto(cls, message: bytes) -> "Tensor":
        """What TensorFlow reads in the bytes of a TensorProto.

        Raises:
            CApiError: it reads nothing in them.
        """
        tensor = cls.of(np.float32(0)[...])
        buffer = library().TF_NewBufferFromString(message, len(message))
        try:
            with _Status() as status:
                library().TF_TensorFromProto(buffer, tensor.pointer, status)
        finally:
            library().TF_DeleteBuffer(buffer)
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(library().TF_Dim(self.pointer, axis) for axis in range(library().TF_NumDims(self.pointer)))

    @property
    def dtype(self) -> str:
        """Its type by NumPy's name, or TensorFlow's number."""
        kind = library().TF_TensorType(self.pointer)
        return NAMES.get(kind, str(kind))

    def numpy(self) -> np.ndarray:
        """A copy; strings as objects of bytes."""
        if not all(self.shape):  # TF_TensorData reads address 0 for an empty tensor that came from a TensorProto
            return np.zeros(self.shape, object if self.dtype == "string" else self.dtype)
        data, count = library().TF_TensorData(self.pointer), int(np.prod(self.shape))
        if self.dtype == "string":
            places = (data + index * _STRING_BYTES for index in range(count))
            texts = [
                ctypes.string_at(library().TF_StringGetDataPointer(at), library().TF_StringGetSize(at)) for at in places
            ]
            return np.array(texts, object).reshape(self.shape)
        contents = ctypes.string_at(data, library().TF_TensorByteSize(self.pointer))
        return np.frombuffer(contents, self.dtype).reshape(self.shape)


class Session:
    """A SavedModel, loaded with the tag "serve".

    Args:
        folder: the folder of one version.

    Attributes:
        signatures: name -> SignatureDef, as bytes.
        inputs, outputs: signature -> name -> tensor of the graph.

    Raises:
        CApiError: TensorFlow cannot load it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.graph, self.pointer = library().TF_NewGraph(), None
        options, meta = library().TF_NewSessionOptions(), library().TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(_SERVE)
        try:
            with _Status() as status:
                self.pointer = library().TF_LoadSessionFromSavedModel(
                    options, None, os.fsencode(folder), tags, 1, self.graph, meta, status
                )
            found = _Buffer.from_address(meta)
            self.signatures = mapping(ctypes.string_at(found.data, found.length), 5)
        finally:
            library().TF_DeleteSessionOptions(options)
            library().TF_DeleteBuffer(meta)
        self.inputs = {name: self._tensors(signature, 1) for name, signature in self.signatures.items()}
        self.outputs = {name: self._tensors(signature, 2) for name, signature in self.signatures.items()}

    def _tensors(self, signature: bytes, number: int) -> dict[str, _Output]:
        """Name -> tensor of the graph, from a map<string, TensorInfo>, whose field 1 is "operation:index"."""
        tensors = {}
        for name, info in mapping(signature, number).items():
            operation, _, index = dict(fields(info)).get(1, b"").rpartition(b":")
            pointer = library().TF_GraphOperationByName(self.graph, operation)
            if pointer:  # the signature that runs initializers names none
                tensors[name] = _Output(pointer, int(index))
        return tensors

    def __del__(self):
        if self.pointer:
            with _Status() as status:
                library().TF_CloseSession(self.pointer, status)
            with _Status() as status:
                library().TF_DeleteSession(self.pointer, status)
        library().TF_DeleteGraph(self.graph)

    def run(self, signature: str, inputs: Mapping[str, np.ndarray | Tensor]) -> dict[str, np.ndarray]:
        """The answers of a signature by name; Python's lock is free meanwhile.

        Raises:
            CApiError: what TensorFlow says.
            KeyError: there is no such signature or input.
        """
        fed = [value if isinstance(value, Tensor) else Tensor.of(value) for value in inputs.values()]
        wanted = self.outputs[signature]
        places = (_Output * len(fed))(*(self.inputs[signature][name] for name in inputs))
        values = (_POINTER * len(fed))(*(tensor.pointer for tensor in fed))
        asked, answers = (_Output * len(wanted))(*wanted.values()), (_POINTER * len(wanted))()
        with _Status() as status:
            library().TF_SessionRun(
                self.pointer, None, places, values, len(fed), asked, answers, len(wanted), None, 0, None, status
            )
        return {name: Tensor(answer).numpy() for name, answer in zip(wanted, answers, strict=True)}

    def ask(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """The same for lists, which take the type that the signature names."""
        kinds = {name: dict(fields(info))[2] for name, info in mapping(self.signatures[signature], 1).items()}
        dtypes = {INT64: np.int64, INT32: np.int32, STRING: object}
        return self.run(signature, {name: np.array(value, dtypes[kinds[name]]) for name, value in inputs.items()})


def main() -> None:
    """Answer every line of standard input; the last line says which packages were loaded."""
    session = Session(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "text" in request:
            request["text"] = [text.encode() for text in request["text"]]
        try:
            answers = session.ask(request.pop("signature"), **request)
        except CApiError as error:
            print(json.dumps({"error": str(error)}))
            continue
        print(json.dumps({name: _plain(answer) for name, answer in answers.items()}))
    print(json.dumps({name: name in sys.modules for name in ("tensorflow", "keras", "embkeras")}))


def _plain(answer: np.ndarray) -> Any:
    if answer.dtype == object:
        return np.array([text.decode() for text in answer.ravel()], object).reshape(answer.shape).tolist()
    return answer.tolist()


if __name__ == "__main__":
    main()

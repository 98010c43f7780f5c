"""What a model takes and returns, found by its own description and by trying it: the spine of an export."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from embkeras._checks import shown
from embkeras.encoders.layers import PositionTable
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import names
from embkeras.serving.contract import Output, answers_by_name, scores_of
from embkeras.serving.folding import embeddings_of
from embkeras.serving.inputs import Input
from embkeras.serving.reasons import reason
from embkeras.serving.server_files import WARM_UP_LENGTHS
from embkeras.serving.slots import MASKS, Slot, masks_of, slots_of, structure_of
from embkeras.tables.addresses import walk
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.text.encoding import Encoding

_LARGEST_EXACT_FLOAT_ID = 1 << 24
_LONGEST_TRIED = 64  # tokens: a model that can't read any text up to this length is refused
_MOST_POSITIONS = 4096  # in a table of positions
_NOT_VALUES = {"Shape", "ShapeN", "Size", "Rank", "OnesLike", "ZerosLike"}  # operations that read no values
_SAME_ANSWERS = {"Identity", "Cast", "Reshape", "Squeeze", "GatherV2", "StridedSlice"}


def inputs_of(
    model: keras.Model,
    vocabulary: Encoding | Mapping[str, Encoding],
    out_of_range: str = "oov",
    long_texts: str = "cut",
) -> list[Input]:
    """Every input of the export, without the lengths that the model reads.

    Raises:
        SavedModelError: a vocabulary doesn't fit its input, or an input is of a kind that can't be served.
        ArgumentError: vocabularies for inputs that the model doesn't have, or none for ids.
    """
    slots = slots_of(model, list(vocabulary) if isinstance(vocabulary, Mapping) else [])
    read = _layers_read(model, slots) if len(slots) > 1 else {}
    encodings = _encodings(model, slots, vocabulary, read)
    masks = masks_of(slots, encodings)
    alone = len(slots) == 1 or (len(slots) - len(masks) == 1 and slots[0].dtype is not None)
    inputs = []
    for slot in slots:
        encoding = encodings.get(slot.name)
        if slot.name in masks:
            of = masks[slot.name]
            leader = names.TOKEN_IDS if alone else of
            shape = _shape(slot, is_ids=True)
            inputs.append(Input(slot.name, names.MASK, slot.dtype or "int32", shape, encodings[of], group=leader))
            continue
        if encoding is None:
            inputs.append(Input(slot.name, names.FEATURE, slot.dtype or "float32", _shape(slot)))
            continue
        _check_ids(model, slot, encoding)
        if len(slots) == 1:
            _check_tables(model, len(encoding))
        else:
            _check_tables_read(slot.name, len(encoding), read.get(slot.name, {}))
        name = names.TOKEN_IDS if alone else slot.name
        shape = _shape(slot, is_ids=True)
        most = shape[-1] if len(shape) > 1 else None
        group = name if len(shape) > 1 else None
        inputs.append(Input(name, names.IDS, "int64", shape, encoding, out_of_range, 1, most, group, long_texts))
    if len(inputs) > 1:
        wrong = [each.name for each in inputs if not each.name.isidentifier()]
        if wrong or len({each.name for each in inputs}) < len(inputs):
            raise SavedModelError(
                f"The inputs of model {model.name!r} need different names of letters, digits and '_'. Received: "
                f"{', '.join(each.name for each in inputs)}. Name them: keras.Input(..., name='query')."
            )
    return inputs


def _shape(slot: Slot, *, is_ids: bool = False) -> tuple[int | None, ...]:
    """The shape of an input; of the ids that a subclassed model was built with, the number of axes alone is known."""
    return (None,) * len(slot.shape) if is_ids and slot.dtype is None else (None, *slot.shape[1:])


def _encodings(
    model: keras.Model,
    slots: Sequence[Slot],
    vocabulary: Encoding | Mapping[str, Encoding],
    read: Mapping[str, Mapping[str, keras.layers.Layer]],
) -> dict[str, Encoding]:
    """The encoding of each input of ids."""
    known = ", ".join(slot.name for slot in slots)
    if isinstance(vocabulary, Mapping):
        unknown = [key for key in vocabulary if key not in {slot.name for slot in slots}]
        if unknown and not (len(slots) == len(vocabulary) == 1 and unknown == [names.TOKEN_IDS]):
            raise ArgumentError(
                f"vocabulary= must be by the inputs of model {model.name!r}: {known}. Received: {shown(unknown[0])}."
            )
        found = {slots[0].name: vocabulary[unknown[0]]} if unknown else dict(vocabulary)
        without = [slot.name for slot in slots if slot.name not in found and read.get(slot.name)]
        if without:
            raise ArgumentError(
                f"The input {without[0]!r} of model {model.name!r} is looked up in layer "
                f"{next(iter(read[without[0]]))!r}, so it needs a vocabulary too: "
                f"vocabulary={{{', '.join(f'{name!r}: ...' for name in [*found, *without])}}}."
            )
        return found
    if len(slots) == 1:
        return {slots[0].name: vocabulary}
    found = {
        slot.name: vocabulary
        for slot in slots
        if read.get(slot.name)
        or (slot.dtype and keras.backend.is_int_dtype(slot.dtype) and not slot.name.endswith(MASKS))
    }
    if not found and None in [slot.dtype for slot in slots]:
        raise SavedModelError(
            f"Model {model.name!r} doesn't say which of its inputs {known} are ids: vocabulary={{{slots[0].name!r}: ...}}."
        )
    if not found:
        raise SavedModelError(f"Model {model.name!r} has no input of ids. Received: inputs {known}, all of floats.")
    return found


def _check_ids(model: keras.Model, slot: Slot, encoding: Encoding) -> None:
    """Refuse an encoding or a shape that ids can't be served with."""
    if not 1 <= len(slot.shape) <= 3:
        raise SavedModelError(
            f"Model {model.name!r} must take ids of shape (batch,), (batch, time) or (batch, sentences, time). Received: "
            f"an input {slot.name!r} of shape {slot.shape}."
        )
    if encoding.oov_id is None and not (getattr(encoding, "drop_unknown", False) and encoding.padding_id is not None):
        raise SavedModelError(
            "The vocabulary has no OOV id, which ids outside the table and empty texts are read as. "
            'Add an "[UNK]" token to it.'
        )
    if len(slot.shape) == 3 and encoding.padding_id is None:
        raise SavedModelError(
            f"Documents of sentences need a vocabulary with a padding id. Input {slot.name!r} has none."
        )
    if not keras.backend.is_int_dtype(slot.dtype) and len(encoding) > _LARGEST_EXACT_FLOAT_ID:
        raise SavedModelError(
            f"Model {model.name!r} takes {slot.dtype} input, which can't distinguish ids above "
            f"{_LARGEST_EXACT_FLOAT_ID:,}; give it keras.Input(..., dtype='int64')."
        )


def _check_tables(model: keras.Model, size: int) -> None:
    """Refuse a vocabulary of another size than the table that its ids are looked up in."""
    tables = [(path, layer) for path, layer in walk(model) if isinstance(layer, keras.layers.Embedding)]
    own = [(path, layer) for path, layer in tables if isinstance(layer, PretrainedEmbedding)]
    # Other embeddings may be for positions; without an embkeras one, any one of the vocabulary's size will do.
    wrong = [(path, layer.input_dim) for path, layer in own or tables if layer.input_dim != size]
    if wrong and (own or len(wrong) == len(tables)):
        path, rows = wrong[0]
        raise SavedModelError(f"Layer {path!r} has {rows} rows, but the vocabulary has {size} tokens.")


def _check_tables_read(name: str, size: int, read: Mapping[str, keras.layers.Layer]) -> None:
    """The same for one input of several, by the tables that it is looked up in."""
    for path, layer in read.items():
        if layer.input_dim != size:
            raise SavedModelError(
                f"Layer {path!r} has {layer.input_dim} rows, but the vocabulary of input {name!r} has {size} tokens."
            )


def _layers_read(model: keras.Model, slots: Sequence[Slot]) -> dict[str, dict[str, keras.layers.Layer]]:
    """For each input, the embedding layers that its values are looked up in, by path: read from the model's graph."""
    specs = {slot.name: tf.TensorSpec((None, *slot.shape[1:]), slot.dtype or "int64", name=slot.name) for slot in slots}
    try:
        traced = tf.function(
            lambda **values: scores_of(model, {slot.name: values[slot.name] for slot in slots}), autograph=False
        )
        graph = traced.get_concrete_function(**specs).graph
    except Exception:  # anything a layer raises: the signatures say it better
        return {}
    layers: dict[int, tuple[str, keras.layers.Layer]] = {}
    for path, layer in [*walk(model), *embeddings_of(model).items()]:
        if isinstance(layer, keras.layers.Embedding):
            layers |= {id(variable.value.handle): (path, layer) for variable in layer.variables}
    captured = {id(inside): layers[id(outside)] for outside, inside in graph.captures if id(outside) in layers}
    fed = {id(tensor): tensor.op.name for tensor in graph.inputs if tensor.op.name in specs}
    read: dict[str, dict[str, keras.layers.Layer]] = {}
    for operation in graph.get_operations():
        if operation.type not in ("ResourceGather", "GatherV2"):
            continue
        table = operation.inputs[0]
        while table.op.type in ("ReadVariableOp", "Identity", "Cast"):
            table = table.op.inputs[0]
        if id(table) in captured:
            path, layer = captured[id(table)]
            for source in sources(operation.inputs[1]):
                if id(source) in fed:
                    read.setdefault(fed[id(source)], {})[path] = layer
    return read


def sources(tensor: tf.Tensor) -> list[tf.Tensor]:
    """The tensors from which the values of one are made."""
    found, seen, todo = [], set(), [tensor]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if each.op.type in ("Placeholder", "PlaceholderWithDefault"):
            found.append(each)
        elif each.op.type not in _NOT_VALUES:
            todo += each.op.inputs
    return found


class Trial:
    """A model tried with zeros of several lengths.

    Attributes:
        inputs: with the lengths that the model reads and the groups of inputs that share their time steps.
        least: the fewest time steps that all inputs of variable length read together.
    """

    def __init__(self, model: keras.Model, inputs: Sequence[Input]):
        self.model, self.inputs = model, list(inputs)
        self._variable = [each.name for each in inputs if each.kind != names.MASK and self._grows(each)]
        fixed = [each.max_length for each in inputs if each.max_length]
        tried = range(1, _LONGEST_TRIED + 1) if self._variable else [max(fixed, default=1)]
        found = next((length for length in tried if self.failure(length) is None), None)
        if found is None:  # a convolution without padding fails on the shortest texts only
            raise SavedModelError(
                f"Model {model.name!r} can't read a text of {tried[0]} to {tried[-1]} tokens: {self.failure(tried[-1])}"
            )
        self.least = found
        self._groups = self._found_groups()
        self._set_limits()

    def _grows(self, each: Input) -> bool:
        """Whether an axis besides the batch is of any length."""
        return None in each.shape[1:]

    def answers(self, length: int, rows: int = 1, /, **other: int) -> Any:
        """What the model returns for rows of zeros, `length` time steps, or other lengths by input."""
        values = {}
        for each in self.inputs:
            steps = other.get(str(each.group if each.kind == names.MASK else each.name), length)
            shape = [rows] + [steps if size is None else size for size in each.shape[1:]]
            values[each.name] = tf.cast(tf.fill(shape, each.kind == names.MASK), each.dtype)
        return scores_of(self.model, values)

    def warm_up(self) -> list[int]:
        """Lengths of the requests that a server runs when it loads the model."""
        lengths = {max(self.least, length) for length in WARM_UP_LENGTHS} if self._variable else {self.least}
        return [length for length in sorted(lengths) if self.failure(length) is None]

    def needs_row(self) -> bool:
        """Whether a batch without rows fails, or is answered in another shape: TensorFlow's convolutions do both."""
        one, nothing = keras.tree.flatten(self.answers(self.least)), None
        with contextlib.suppress(Exception):  # anything a layer raises
            nothing = keras.tree.flatten(self.answers(self.least, 0))
        return nothing is None or [each.shape[1:] for each in one] != [each.shape[1:] for each in nothing]

    def failure(self, length: int, /, **other: int) -> str | None:
        """Why the model can't read such a row, or None if it can."""
        try:
            self.answers(length, **other)
        except Exception as error:  # anything a layer raises
            return reason(str(error))
        return None

    def _found_groups(self) -> list[list[str]]:
        """Inputs of variable length that must have the same one, each group with an input of ids first."""
        if len(self.inputs) == 1:
            return [self._variable] if self._variable else []
        base = self.least + 1
        bound = [name for name in self._variable if self.failure(base, **{name: base + 1}) is not None]
        groups = [[name] for name in self._variable if name not in bound]
        while bound:
            first, *rest = bound
            pairs = ([first, other] for other in rest)
            group = next((pair for pair in pairs if self.failure(base, **dict.fromkeys(pair, base + 1)) is None), bound)
            groups.append(group)
            bound = [name for name in bound if name not in group]
        return groups

    def _set_limits(self) -> None:
        """Each group's shortest length, while the others keep theirs."""
        by_name = {each.name: each for each in self.inputs}
        for group in self._groups:
            ids = [name for name in group if by_name[name].kind == names.IDS]
            lengths = range(1, self.least)
            least = next(
                (n for n in lengths if self.failure(self.least, **dict.fromkeys(group, n)) is None), self.least
            )
            leader = by_name[ids[0]] if ids else None
            most = self._most(group, least) if leader is not None and leader.rank == 2 else None
            for name in group:
                by_name[name] = replace(
                    by_name[name], min_length=least, max_length=most, group=None if leader is None else leader.name
                )
        for each in self.inputs:
            if each.kind == names.IDS and each.max_length:
                by_name[each.name] = replace(by_name[each.name], min_length=each.max_length)
        self.inputs = [by_name[each.name] for each in self.inputs]

    def _most(self, group: Sequence[str], least: int) -> int | None:
        """The most time steps that the model reads, where a table of positions ends; None without such a table."""
        tables = [layer.input_dim for _, layer in walk(self.model) if isinstance(layer, keras.layers.Embedding)]
        sizes = [each.size for each in {id(each.encoding): each for each in self.inputs}.values()]
        ends = {layer.most for _, layer in walk(self.model) if isinstance(layer, PositionTable)}
        rows = {each.shape[0] for each in self.model.weights if len(each.shape) == 2 and "position" in each.path} | ends
        rows |= {size for size in tables if tables.count(size) > sizes.count(size)}  # others are of words
        for most in sorted(rows):
            tried = least < most <= _MOST_POSITIONS or most in ends
            if tried and self.failure(self.least, **dict.fromkeys(group, most + 1)):
                # A PositionTable says itself where it ends; another failure may have another cause.
                known = most in ends or self.failure(self.least, **dict.fromkeys(group, most)) is None
                return most if known else None
        return None

    def outputs(self, class_names: Sequence[str] | None) -> list[Output]:
        """The outputs in the order in which the model returns them."""
        base = self.least if not self._variable else self.least + 1
        answers = self.answers(base)
        named = _output_names(self.model, answers, class_names)
        shapes = {name: tuple(answer.shape) for name, answer in answers_by_name(answers, named).items()}
        followed: dict[str, str] = {}
        for group in self._groups:
            leader = next(each.group for each in self.inputs if each.name == group[0])
            longer = answers_by_name(self.answers(base, **dict.fromkeys(group, base + 1)), named)
            for name, answer in longer.items():
                before, after = shapes[name], tuple(answer.shape)
                if before == after or leader is None:
                    continue
                if before[1] != base or after[1] != base + 1:
                    raise SavedModelError(
                        f"The output {name!r} of model {self.model.name!r} has {after[1]} rows for {base + 1} tokens of "
                        f"{leader!r}, so its rows can't be assigned to tokens. Return one row for each token, or pool them."
                    )
                followed[name] = leader
        for name, shape in shapes.items():
            if name not in followed and len(shape) > 1:
                fixed = self._fixed_leader(name, shape, named)
                if fixed is not None:
                    followed[name] = fixed
        return [
            Output(
                name,
                "token" if name in followed else "row",
                (None, None, *shapes[name][2:]) if name in followed else (None, *shapes[name][1:]),
                followed.get(name),
            )
            for name in named
        ]

    def _fixed_leader(self, name: str, shape: tuple[int, ...], named: Sequence[str]) -> str | None:
        """The input of fixed length whose time steps an output has, or None: does a longer input lengthen it?"""
        unclear = []
        for each in self.inputs:
            if each.kind != names.IDS or each.rank == 1 or each.shape[1] != shape[1]:
                continue
            try:
                answers = self._longer(each)
            except (
                Exception
            ):  # a layer that takes one length only, such as Dense behind Flatten, or a model inside this one
                unclear.append(each.name)
                continue
            if answers_by_name(answers, named)[name].shape[1] == shape[1] + 1:
                return each.name
        return unclear[0] if len(unclear) == 1 and len(shape) > 2 else None

    def _longer(self, longer: Input) -> Any:
        """What the model returns if one input of fixed length has a time step more."""
        values = []
        for each in self.inputs:
            shape = [1, *(self.least if size is None else size for size in each.shape[1:])]
            grows = each is longer or (each.kind == names.MASK and each.group == longer.name)
            shape[1:2] = [size + grows for size in shape[1:2]]
            values.append(tf.cast(tf.fill(shape, each.kind == names.MASK), each.dtype))
        # Not the model itself, which compares shapes with those it was made for.
        return self.model.call(keras.tree.pack_sequence_as(structure_of(self.model), values), training=False)


def _output_names(model: keras.Model, answers: Any, class_names: Sequence[str] | None) -> list[str]:
    """Names of the outputs, in the order in which the model returns them."""
    if isinstance(answers, dict):
        named = sorted(answers)
    elif isinstance(answers, list | tuple):
        named = list(getattr(model, "output_names", None) or [f"output_{place}" for place in range(len(answers))])
    else:
        scores = answers.shape[-1]
        if class_names is not None and len(class_names) != scores and not (scores == 1 and len(class_names) == 2):
            raise ArgumentError(
                f"class_names must have one name for each of {scores} scores. Received: {len(class_names)}."
            )
        return ["scores"]
    if len(set(named)) < len(named):
        raise SavedModelError(
            f"Outputs of model {model.name!r} share a name: {', '.join(named)}. Return them as a dictionary."
        )
    if class_names is not None:
        raise ArgumentError(f"class_names need a model with one output. Model {model.name!r} has {', '.join(named)}.")
    return named


def activation_of(tensor: tf.Tensor, model: keras.Model) -> str | None:
    """ "sigmoid" or "softmax" where an output of a graph comes from one, else None."""
    while True:
        kind = tensor.op.type
        if kind in ("Sigmoid", "Softmax"):
            return kind.lower()
        if kind == "SelectV2":
            chosen, other = tensor.op.inputs[1:]
            tensor = other if chosen.op.type == "Const" else chosen
        elif kind in _SAME_ANSWERS:
            tensor = tensor.op.inputs[0]
        else:
            break
    last = model.layers[-1] if getattr(model, "outputs", None) and len(model.outputs) == 1 else None
    if isinstance(last, keras.layers.TimeDistributed):  # its graph is a loop
        name = getattr(getattr(last.layer, "activation", None), "__name__", None)
        return name if name in ("sigmoid", "softmax") else None
    return None

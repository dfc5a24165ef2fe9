"""tf.train.Example and SequenceExample without TensorFlow.

protobuf parses them, from descriptors made here of the published message definitions
(tensorflow/core/example/feature.proto and example.proto): field numbers and types, nothing else.
A SequenceExample's field 1 is of the type of an Example's only field, so one message reads both.
"""

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tools.tfrecord_import.wire import Feature

_PACKAGE = "memo_jax.tfrecord"
_OPTIONAL, _REPEATED = 1, 3  # FieldDescriptorProto.Label
_FLOAT, _INT64, _MESSAGE, _BYTES, _STRING = 2, 3, 11, 12, 9  # FieldDescriptorProto.Type

# message -> (field, number, label, type, or the message it holds)
_MESSAGES: dict[str, list[tuple[str, int, int, int | str]]] = {
    "BytesList": [("value", 1, _REPEATED, _BYTES)],
    "FloatList": [("value", 1, _REPEATED, _FLOAT)],
    "Int64List": [("value", 1, _REPEATED, _INT64)],
    "Feature": [
        ("bytes_list", 1, _OPTIONAL, "BytesList"),
        ("float_list", 2, _OPTIONAL, "FloatList"),
        ("int64_list", 3, _OPTIONAL, "Int64List"),
    ],
    "FeatureList": [("feature", 1, _REPEATED, "Feature")],
    "Features": [("feature", 1, _REPEATED, "Features.Entry")],
    "FeatureLists": [("feature_list", 1, _REPEATED, "FeatureLists.Entry")],
    "SequenceExample": [
        ("context", 1, _OPTIONAL, "Features"),
        ("feature_lists", 2, _OPTIONAL, "FeatureLists"),
    ],
}
_MAPS = {"Features": "Feature", "FeatureLists": "FeatureList"}


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of an Example or SequenceExample, by name and in the order of names.

    Raises:
      ValueError: it is neither.
    """
    try:
        example = _SequenceExample.FromString(data)
    except DecodeError as error:
        raise ValueError("no Example") from error
    found = {name: _feature([feature]) for name, feature in example.context.feature.items()}
    for name, steps in example.feature_lists.feature_list.items():
        found[name] = _feature(list(steps.feature))._replace(steps=len(steps.feature))
    return dict(sorted(found.items()))


def _feature(steps: list[Any]) -> Feature:
    """All steps' values one after the other. A step without any is of any kind."""
    kinds = [step.WhichOneof("kind") for step in steps]
    kind = next((k for k in kinds if k), "bytes_list")
    lists = [getattr(step, kind).value for step, k in zip(steps, kinds, strict=True) if k == kind]
    values = lists[0] if len(lists) == 1 else [value for part in lists for value in part]
    if kind == "bytes_list":
        return Feature("bytes", list(values))
    if kind == "float_list":
        return Feature("float", np.array(values, np.float32))
    return Feature("int", np.array(values, np.int64))


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="memo_jax/tfrecord.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "Feature":
            message.oneof_decl.add(name="kind")
        for field in fields:
            added = _add(message, *field)
            if name == "Feature":
                added.oneof_index = 0
        if name in _MAPS:
            entry = message.nested_type.add(name="Entry")
            entry.options.map_entry = True
            _add(entry, "key", 1, _OPTIONAL, _STRING)
            _add(entry, "value", 2, _OPTIONAL, _MAPS[name])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{_PACKAGE}.SequenceExample")
    )


def _add(message: Any, name: str, number: int, label: int, kind: int | str) -> Any:
    field = message.field.add(name=name, number=number, label=label)
    if isinstance(kind, str):
        field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = kind
    return field


_SequenceExample = _message_class()

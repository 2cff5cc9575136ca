"""A cross-encoder made by hand, in the files fastembed reads: a double with visible arithmetic.

Its logit is the mean of the pair's token ids minus 10. Padding has the id 0 and counts, so that, as
with an int8 model, a score depends on what else is in the batch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

IDS = {"[PAD]": 0, "[UNK]": 1, "who": 7, "may": 9, "sign": 20, "board": 16, "books": 3, "the": 2}
SHIFT = 10.0
FLOAT, INT64 = 1, 7  # element types of ONNX


def logit(query: str, text: str) -> float:
    """What the model gives for a pair alone."""
    ids = [IDS.get(word, IDS["[UNK]"]) for word in f"{query} {text}".lower().split()]
    return sum(ids) / len(ids) - SHIFT


def write(folder: Path) -> Path:
    """Write model and tokenizer into a folder, and return it."""
    (folder / "model.onnx").write_bytes(_model())
    tokenizer = Tokenizer(WordLevel(IDS, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in {
        "config": {"pad_token_id": 0, "max_position_embeddings": 512},
        "tokenizer_config": {"model_max_length": 512, "pad_token": "[PAD]"},
        "special_tokens_map": {"pad_token": "[PAD]", "unk_token": "[UNK]"},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def _model() -> bytes:
    """A graph in ONNX's protobuf (onnx.proto): Cast, ReduceMean over the tokens, Sub."""
    nodes = [
        _node("Cast", ["input_ids"], "floats", _integer("to", FLOAT)),
        _node("ReduceMean", ["floats"], "mean", _integers("axes", [1]), _integer("keepdims", 1)),
        _node("Sub", ["mean", "shift"], "logits"),
    ]
    shift = _field(1, 1) + _field(2, FLOAT) + _field(8, b"shift") + _field(9, _floats(SHIFT))
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny") + _field(5, shift)
    graph += _field(11, _value("input_ids", INT64, "N", "T"))
    graph += _field(12, _value("logits", FLOAT, "N", "one"))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def _node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode())
    return names + _field(4, kind.encode()) + b"".join(_field(5, each) for each in attributes)


def _integer(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _field(3, value) + _field(20, 2)


def _integers(name: str, values: list[int]) -> bytes:
    return _field(1, name.encode()) + b"".join(_field(8, each) for each in values) + _field(20, 7)


def _value(name: str, element: int, *dimensions: str) -> bytes:
    shape = b"".join(_field(1, _field(2, each.encode())) for each in dimensions)
    tensor = _field(1, element) + _field(2, shape)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _floats(value: float) -> bytes:
    return struct.pack("<f", value)


def _field(number: int, value: int | bytes) -> bytes:
    """One field of protobuf: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

"""The header of a GGUF file, read without its weights.

Layout: magic, version, number of tensors, number of metadata entries; the entries; for each tensor
its name, shape, type and offset; then the weights.
"""

import mmap
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from dedup_server.errors import StartupError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Metadata values: numbers by type code, and the two types that are not of a fixed size.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 8  # more is a damaged file; GGUF has four
_DEFAULT_ALIGNMENT = 32
# Ids of the tokens that end an answer: of the text, of a turn, of a message.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


class Tensor(NamedTuple):
    """A tensor's name, number of values, type code and offset in the section of weights."""

    name: str
    size: int
    type_code: int
    offset: int


class Header(NamedTuple):
    """Header of a GGUF file.

    Args:
        metadata: strings and numbers; of an array, its length.
        weights_start: offset of the section of weights.
    """

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    weights_start: int

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end an answer. Of several, transformers reads only the first."""
        found = (self.metadata.get(f"tokenizer.ggml.{name}") for name in _ENDS)
        return list(dict.fromkeys(token for token in found if isinstance(token, int)))


class _DamagedError(Exception):
    """Raised where a header ends too early or contains what no header has."""


def read_header(path: Path) -> Header:
    """Read a file's header.

    Raises:
        StartupError: it is not a GGUF file, or is cut off; the message is one line.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
            if magic[:4] != _MAGIC:
                raise StartupError(f"{path}: is not a GGUF file")
            if len(magic) == 8 and (version := struct.unpack("<I", magic[4:])[0]) not in _VERSIONS:
                raise StartupError(f"{path}: GGUF version {version} is not supported")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
    except OSError as error:
        raise StartupError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (_DamagedError, UnicodeDecodeError):
        raise StartupError(f"{path}: is cut off or damaged") from None


def require_readable(path: Path) -> None:
    """Raise `StartupError` if transformers cannot read the file; load nothing."""
    if not path.exists():
        raise StartupError(
            f"{path}: no such file; a GGUF file on the hub has to be downloaded first"
        )
    header = read_header(path)
    if not find_spec("gguf"):
        raise StartupError(f'{path}: a GGUF file needs gguf: pip install "dedup-llm[local]"')
    metadata = header.metadata
    parts = metadata.get("split.count", 0)
    if parts > 1:
        part = metadata.get("split.no", 0) + 1
        raise StartupError(
            f"{path}: is part {part} of {parts} of a split model; join the parts first"
            " (llama-gguf-split --merge)"
        )
    if not isinstance(metadata.get("general.architecture"), str):
        raise StartupError(f"{path}: names no architecture (general.architecture)")
    if not header.tensors:
        raise StartupError(f"{path}: has no weights")
    if not metadata.get("tokenizer.ggml.tokens"):
        raise StartupError(f"{path}: has no tokenizer (tokenizer.ggml.tokens)")
    wanted = header.weights_start + max(_ends(header, path))
    size = path.stat().st_size
    if size < wanted:
        raise StartupError(f"{path}: is cut off: it has {size:,} of {wanted:,} bytes")


def _ends(header: Header, path: Path) -> Iterator[int]:
    """Yield where each tensor's values end in the section of weights."""
    import gguf
    import numpy as np

    sizes: dict[int, tuple[int, int]] = {}
    for tensor in header.tensors:
        if tensor.type_code not in sizes:
            try:
                kind = gguf.GGMLQuantizationType(tensor.type_code)
                sizes[tensor.type_code] = gguf.GGML_QUANT_SIZES[kind]
                block = np.zeros(sizes[tensor.type_code][1], np.uint8)
                gguf.quants.dequantize(block, kind)
            except (ValueError, KeyError):
                raise StartupError(
                    f"{path}: {tensor.name} is of type {tensor.type_code}, which gguf does not know"
                ) from None
            except NotImplementedError:
                raise StartupError(
                    f"{path}: {tensor.name} is quantised as {kind.name}, which gguf cannot"
                    " dequantise"
                ) from None
        values, num_bytes = sizes[tensor.type_code]
        yield tensor.offset + tensor.size // values * num_bytes


class _Reader:
    """A position in a file's header. Raises `_DamagedError` past its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(_MAGIC)

    def header(self) -> Header:
        self._number("I")  # version
        num_tensors, num_entries = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            name = self._string()
            metadata[name] = self._value(self._number("I"))
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        alignment = metadata.get("general.alignment") or _DEFAULT_ALIGNMENT
        return Header(metadata, tensors, -(-self._at // alignment) * alignment)

    def _tensor(self) -> Tensor:
        name = self._string()
        dimensions = self._number("I")
        if dimensions > _MAX_DIMENSIONS:
            raise _DamagedError
        size = prod(self._number("Q") for _ in range(dimensions))
        return Tensor(name, size, self._number("I"), self._number("Q"))

    def _value(self, code: int) -> Any:
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code == _STRING:
            return self._string()
        if code != _ARRAY:
            raise _DamagedError
        item, length = self._number("I"), self._number("Q")
        if item in _NUMBERS:
            self._skip(length * struct.calcsize(_NUMBERS[item]))
        elif item == _STRING:
            for _ in range(length):
                self._skip(self._number("Q"))
        else:
            raise _DamagedError
        return length

    def _number(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from(f"<{form}", self._data, self._at)
        except (struct.error, OverflowError):
            raise _DamagedError from None
        self._at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        length = self._number("Q")
        begin = self._at
        self._skip(length)
        return self._data[begin : self._at].decode()

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise _DamagedError

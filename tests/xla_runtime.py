"""A runtime for XLA's handlers to answer to: the C structs of a call, in ctypes.

What is declared here is what src/abi/xla_ffi.h has, which tests/cpp/abi_xla_ffi.cpp compares with
the official header.
"""

from __future__ import annotations

import ctypes
from typing import Any

from roidl._bridge import bridge


class Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class Metadata(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("version", Version),
        ("traits", ctypes.c_uint32),
    ]


class MetadataExtension(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(Metadata)),
    ]


class ErrorCreate(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


class StreamGet(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    ]


CREATE_ERROR = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(ErrorCreate))
GET_STREAM = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(StreamGet))


class Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("version", Version),
        ("internal", ctypes.c_void_p),
        ("create_error", CREATE_ERROR),
        ("others", ctypes.c_void_p * 3),
        ("get_stream", GET_STREAM),
    ]


class Arrays(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
    ]


class Attributes(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
    ]


class Frame(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(MetadataExtension)),
        ("api", ctypes.POINTER(Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("operands", Arrays),
        ("results", Arrays),
        ("attributes", Attributes),
    ]


METADATA, EXECUTE = 1, 3
UNIMPLEMENTED, INTERNAL = 12, 13
CAPTURABLE = 1
OURS, THEIRS, STREAM = 0x1234, 0x5678, 0x9ABC  # addresses that only have to come back


class Runtime:
    """What a handler sees of XLA: a stream or an error in its place, and errors kept as words."""

    version = (0, 77)

    def __init__(self, stream_fails: bool = False) -> None:
        self.errors: list[tuple[int, str]] = []

        def create_error(arguments: Any) -> int:
            told = arguments.contents
            self.errors.append((told.code, told.message.decode()))
            return OURS

        def get_stream(arguments: Any) -> int | None:
            arguments.contents.stream = STREAM
            return THEIRS if stream_fails else None

        version = Version(ctypes.sizeof(Version), None, *self.version)
        self._api = Api(
            ctypes.sizeof(Api), None, version, None, CREATE_ERROR(create_error),
            (ctypes.c_void_p * 3)(), GET_STREAM(get_stream),
        )  # fmt: skip

    def call(self, name: str, stage: int = EXECUTE, extension: Any = None) -> int | None:
        handler = getattr(ctypes.CDLL(bridge("xla")), name)
        handler.restype = ctypes.c_void_p
        frame = Frame(
            ctypes.sizeof(Frame), extension, ctypes.pointer(self._api), None, stage,
            Arrays(), Arrays(), Attributes(),
        )  # fmt: skip
        answer: int | None = handler(ctypes.byref(frame))
        return answer

    def metadata(self, name: str) -> Metadata:
        """What a handler says of itself, into a struct that says something else."""
        asked = Metadata(ctypes.sizeof(Metadata), Version(ctypes.sizeof(Version), None, 5, 5), 0)
        extension = MetadataExtension(
            ctypes.sizeof(MetadataExtension), METADATA, None, ctypes.pointer(asked)
        )
        assert self.call(name, extension=ctypes.pointer(extension)) is None
        return asked

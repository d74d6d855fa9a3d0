"""Reads and writes traces, for tests: written from README.md's description, not from trace.h."""

import collections
import struct

HEADER = struct.Struct("<8sII8Q48s")
FIELDS = (
    "magic version flags n_calls n_blocks n_threads peak_bytes peak_blocks body_bytes checksum"
    " reserved program"
)
Header = collections.namedtuple("Header", FIELDS)
Call = collections.namedtuple("Call", "op thread block size align")
OPS = ("malloc", "calloc", "aligned", "realloc", "free")


def checksum(header, body):
    value = 0xCBF29CE484222325
    for byte in body + HEADER.pack(*header._replace(checksum=0)):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value


def calls_of(header, body):
    """All calls of a trace in their order."""
    source, blocks = Bytes(body), 0
    while source.at < len(body):
        thread, left = source.number(), source.number()
        for _ in range(left):
            first = source.byte()
            op, align = OPS[first & 7], 1 << (first >> 3)
            if op in ("realloc", "free"):
                block = blocks - source.number()
            else:
                block, blocks = blocks, blocks + 1
            yield Call(op, thread, block, None if op == "free" else source.number(), align)
    assert blocks == header.n_blocks


def read_header(path):
    with open(path, "rb") as file:
        return Header(*HEADER.unpack(file.read(HEADER.size)))


def read(path):
    """The header and the list of calls. Raises AssertionError if they do not agree."""
    with open(path, "rb") as file:
        data = file.read()
    header, body = Header(*HEADER.unpack(data[: HEADER.size])), data[HEADER.size :]
    assert (header.magic, header.version, header.body_bytes) == (b"HAKTRACE", 1, len(body))
    assert header.checksum == checksum(header, body)
    calls = list(calls_of(header, body))
    assert len(calls) == header.n_calls
    return header, calls


def write(path, body, n_calls, n_blocks, n_threads=1, **changed):
    """Writes a trace with this body, whatever it is."""
    header = Header(
        b"HAKTRACE", 1, 0, n_calls, n_blocks, n_threads, 0, 0, len(body), 0, 0, b"made"
    )._replace(**changed)
    header = header._replace(checksum=checksum(header, body))
    with open(path, "wb") as file:
        file.write(HEADER.pack(*header) + body)

#!/usr/bin/env python3
"""pack.py pack DIR FILE | pack.py unpack FILE DIR: a fuzzer's corpus as one file; each input behind
its length, two bytes."""

import hashlib
import os
import sys


def pack(folder, path):
    inputs = set()
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            inputs.add(file.read())
    with open(path, "wb") as out:
        for data in sorted(inputs, key=lambda data: (len(data), data)):
            out.write(len(data).to_bytes(2, "little") + data)
    return len(inputs)


def unpack(path, folder):
    os.makedirs(folder, exist_ok=True)
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    n = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        if end > len(data):
            sys.exit("pack.py: %s is cut off" % path)
        one = data[at + 2 : end]
        with open(os.path.join(folder, hashlib.sha256(one).hexdigest()[:16]), "wb") as out:
            out.write(one)
        at = end
        n += 1
    return n


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("pack", "unpack"):
        sys.exit(__doc__)
    n = (pack if sys.argv[1] == "pack" else unpack)(sys.argv[2], sys.argv[3])
    print("%d inputs" % n)


if __name__ == "__main__":
    main()

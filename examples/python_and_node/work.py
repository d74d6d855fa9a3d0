"""Dictionaries, JSON and threads; prints a checksum, and who serves malloc."""

import ctypes
import hashlib
import json
import threading


def rows(n):
    return [{"number": i, "text": "x" * (i % 300), "list": list(range(i % 20))} for i in range(n)]


def digest():
    text = json.dumps(rows(3000)).encode()
    return hashlib.sha256(json.dumps(json.loads(text)).encode()).hexdigest()


results = []
threads = [threading.Thread(target=lambda: results.append(digest())) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(set(results)) == 1

# Large objects come from malloc; Python has an arena for small ones, which it maps by itself.
program = ctypes.CDLL(None)
block = bytearray(1_000_000)
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
ours = hasattr(program, "hak_owns") and program.hak_owns(ctypes.c_void_p(address))
print(results[0], "hakmem" if ours else "libc")

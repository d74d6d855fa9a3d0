"""Python's part: JSON, dictionaries, objects, strings, compression, threads. work.py SCALE prints a
digest of what it made."""

import hashlib
import json
import sys
import threading
import zlib

digest = hashlib.sha256()


class Tree:
    def __init__(self, value):
        self.value, self.left, self.right = value, None, None

    def add(self, value):
        node = self
        while value != node.value:
            side = "left" if value < node.value else "right"
            if getattr(node, side) is None:
                setattr(node, side, Tree(value))
            node = getattr(node, side)

    def depth(self):
        return 1 + max(
            self.left.depth() if self.left else 0, self.right.depth() if self.right else 0
        )


def documents(n):
    data = {
        f"k{i}": [i, str(i) * (i % 50), {"x": i / 3, "tags": [f"t{i % 7}", None, True]}]
        for i in range(n)
    }
    text = json.dumps(data)
    assert json.loads(text) == data
    digest.update(text.encode())


def trees(n):
    root = Tree(5000)
    for i in range(n):
        root.add(i * 7919 % 10007)
    digest.update(str(root.depth()).encode())


def words(n):
    found = sorted({str(i * 7919 % 100003) + "-" * (i % 60) for i in range(n)})
    digest.update(" ".join(found).encode())


def threads(n):
    results = [b""] * 4

    def work(k):
        rows = [bytes([k, i % 256]) * (i % 3000) for i in range(n)]
        results[k] = zlib.compress(b"".join(rows), 1)

    running = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    digest.update(b"".join(results))


for turn in range(int(sys.argv[1])):
    documents(20000)
    trees(10000)
    words(60000)
    threads(600)
print(digest.hexdigest())

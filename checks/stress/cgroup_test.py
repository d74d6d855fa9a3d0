"""The stress in a memory cgroup of its own, version 1 or 2: cgroup_test.py STRESS

With the cgroup's limit, by which the heap purges before the kernel has to kill; and with a hard
limit within it, which refuses what would pass it. Where no cgroup can be made, it says why and
passes.
"""
import os
import re
import subprocess
import sys
import unittest

STRESS = sys.argv[1]
MIB = 1 << 20
# Of each version: where it is mounted, the files of the limit and of the highest usage.
VERSIONS = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    ("/sys/fs/cgroup", "memory.max", "memory.peak"),
]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


class Group:
    """Of this process's children that enter it; removed at the end. OSError: none can be made."""

    def __init__(self, limit):
        root, limit_file, self.peak_file = next(
            (version for version in VERSIONS if os.path.exists(version[0])), VERSIONS[1]
        )
        self.path = os.path.join(root, "hakmem_test_%d" % os.getpid())
        os.mkdir(self.path)
        try:
            write(os.path.join(self.path, limit_file), str(limit))
        except OSError:
            os.rmdir(self.path)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.rmdir(self.path)

    def enter(self):
        write(os.path.join(self.path, "cgroup.procs"), str(os.getpid()))

    def peak(self):
        """Bytes; None where the kernel does not tell."""
        try:
            with open(os.path.join(self.path, self.peak_file)) as file:
                return int(file.read())
        except OSError:
            return None


class InACgroup(unittest.TestCase):
    def stress(self, limit, *arguments, **environment):
        with Group(limit) as group:
            done = subprocess.run(
                [STRESS, "--threads", "4", "--steps", "4000", "--profile", "large", *arguments],
                env=dict(os.environ, **environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=group.enter,
            )
            print(done.stdout, "highest usage:", group.peak())
            self.assertEqual(0, done.returncode, done.stdout)
            self.assertIn("hakmem_stress: ok", done.stdout)
            if group.peak() is not None:
                self.assertLessEqual(group.peak(), limit)
                self.assertGreater(group.peak(), MIB)
            return int(re.search("refused=([0-9]+)", done.stdout).group(1))

    def test_the_cgroups_limit(self):
        self.assertEqual(0, self.stress(224 * MIB))

    def test_a_hard_limit_within_it(self):
        limit = str(96 * MIB)
        self.assertGreater(
            self.stress(256 * MIB, "--limited", "1", HAKMEM_LIMIT_HARD=limit), 0
        )


if __name__ == "__main__":
    try:
        with Group(64 * MIB):
            pass
    except OSError as error:
        print("cgroup_test: nothing tested: no memory cgroup can be made here: %s" % error)
        sys.exit(0)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)

"""Programs that have more privileges than their caller read no HAKMEM_* variable and write nothing:
a set-user-ID program, and one with file capabilities, each run by another user. Needs root, and a
file system that lets them be; else it says so.

secure_test.py PROGRAM
"""
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.path.abspath(sys.argv[1])
NOBODY = 65534


def variables(folder, limit):
    """Each makes hakmem say or write something, were it read; a limit of 1 MiB is not enough."""
    return {
        "HAKMEM_VERBOSE": "1",
        "HAKMEM_SHOW_STATS": folder + "/stats",
        "HAKMEM_ACE_TRACE": "1",
        "HAKMEM_LIMIT_HARD": limit,
        "HAKMEM_NO_SUCH": "1",
        "HAKMEM_BIN_BYTES": "junk",
        "HAKMEM_GUARD": "1",
        "HAKMEM_PROFILE": folder + "/profile",
        "HAKMEM_PROFILE_PERIOD": "1",
        "HAKMEM_PROFILE_GROWTH": "1000",
        "HAKMEM_LEAKS": folder + "/leaks",
        "PATH": "/usr/bin:/bin",
    }


def run(program, as_other=True, limit="1m"):
    def become_nobody():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    return subprocess.run(
        [program],
        env=variables(os.path.dirname(program), limit),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=become_nobody if as_other and os.geteuid() == 0 else None,
        timeout=60,
    )


class Secure(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        os.chmod(self.folder, 0o777)  # whoever runs the program could write there
        self.copy = shutil.copy(PROGRAM, os.path.join(self.folder, "secure"))
        os.chmod(self.copy, 0o755)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def is_silent(self, how):
        try:
            done = run(self.copy)
        except (OSError, subprocess.SubprocessError) as error:
            self.skipTest("%s: cannot be run here: %s" % (how, error))
        if done.stdout == "secure=0\n":
            self.skipTest("%s: the kernel gives no privileges here" % how)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "secure=1\n", ""))
        self.assertEqual(os.listdir(self.folder), ["secure"])

    def test_without_privileges_they_are_read(self):
        done = run(self.copy, as_other=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("HAKMEM_NO_SUCH", done.stderr)
        done = run(self.copy, as_other=False, limit="1g")
        self.assertEqual((done.returncode, done.stdout), (0, "secure=0\n"))
        written = {name.split(".")[0] for name in os.listdir(self.folder)}
        self.assertEqual(written, {"secure", "stats", "profile", "leaks"})

    def test_set_user_id(self):
        if os.geteuid() != 0:
            self.skipTest("set-user-ID: needs root")
        os.chmod(self.copy, 0o755 | stat.S_ISUID)
        self.is_silent("set-user-ID")

    def test_file_capabilities(self):
        net_bind_service, version_2_effective = 1 << 10, 0x02000001
        try:
            os.setxattr(
                self.copy,
                "security.capability",
                struct.pack("<5I", version_2_effective, net_bind_service, 0, 0, 0),
            )
        except OSError as error:
            self.skipTest("file capabilities: cannot be set here: %s" % error)
        self.is_silent("file capabilities")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)

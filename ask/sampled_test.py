"""`hakmem profile PID`: a process that runs is sampled and read from outside, while it makes
threads, forks, loads libraries, ends or becomes another program; and what cannot be done is said.

sampled_test.py COMMAND ASKED_PROGRAM LIBRARY SECURE_LIBRARY [CASES]
"""
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import unittest

COMMAND, PROGRAM = (os.path.realpath(a) for a in sys.argv[1:3])
LIBRARIES = [os.path.realpath(a) for a in sys.argv[3:5]]
BLOCK = 1008  # of the class
ENDED = r"has ended, or runs another program now|has ended: its profile is up to"


def address_of(function):
    text = subprocess.run(["nm", PROGRAM], stdout=subprocess.PIPE, text=True, check=True).stdout
    return int(re.search(rf"(?m)^([0-9a-f]+) [tT] {function}$", text).group(1), 16)


KEEP_SMALL = address_of("keep_small")


class Asked:
    """The program; `say` returns its answer's pid when it has done what the line says."""

    def __init__(self, library=LIBRARIES[0], **environment):
        self.process = subprocess.Popen(
            [PROGRAM],
            env=dict(
                {"LD_PRELOAD": library, "PATH": "/usr/bin:/bin", "HAKMEM_PROFILE_RATE": "0"},
                **{"HAKMEM_" + k: v for k, v in environment.items()},
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self.process.pid
        self.hears("ready")

    def hears(self, word):
        pid, said = self.process.stdout.readline().split()
        assert said == word, said
        return int(pid)

    def say(self, line, answers="done"):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hears(answers)

    def fork(self):
        """The child's pid; the two answer in any order."""
        self.process.stdin.write("fork\n")
        self.process.stdin.flush()
        said = dict(self.process.stdout.readline().split()[::-1] for _ in range(2))
        assert sorted(said) == ["child", "done"], said
        return int(said["child"])

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Raw:
    def __init__(self, path):
        with open(path, encoding="utf-8") as stream:
            self.lines = stream.read().splitlines()
        self.head, self.stacks, self.maps = {}, [], []
        for line in self.lines:
            word, _, rest = line.partition(" ")
            if word == "stack":
                numbers, _, addresses = rest.partition(" : ")
                row = dict(zip(self.head["fields"].split(), map(int, numbers.split())))
                row["addresses"] = [int(a, 16) for a in addresses.split()]
                self.stacks.append(row)
            elif word == "map":
                span, offset, build_id, name = rest.split(" ", 3)
                start, end = (int(n, 16) for n in span.split("-"))
                self.maps.append((start, end, int(offset, 16), build_id, name))
            else:
                self.head[word] = rest
        starts = [start - offset for start, _, offset, _, name in self.maps if name == PROGRAM]
        self.keep_small = starts[0] + KEEP_SMALL

    def kept(self, field="live_objects"):
        return sum(
            row[field]
            for row in self.stacks
            if any(0 <= a - self.keep_small < 64 for a in row["addresses"][:4])
        )


class Sampled(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "raw profile")
        self.running = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for one in self.running:
            if isinstance(one, Asked):
                one.end()
            elif one.poll() is None:
                one.kill()
                one.wait()

    def start(self, *arguments, **environment):
        program = Asked(*arguments, **environment)
        self.running.append(program)
        return program

    def command(self, pid, *options, file=None):
        tool = subprocess.Popen(
            [COMMAND, "profile", "--raw", "-o", file or self.file, *options, str(pid)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(tool)
        self.addCleanup(tool.stderr.close)
        return tool

    def begin(self, program, *options, file=None, pid=None):
        """The command, which samples until it gets a signal."""
        options = options or ("--period", "8192")
        tool = self.command(pid or program.pid, "--seconds", "3000", *options, file=file)
        while not select.select([tool.stderr], [], [], 0.01)[0]:
            # What takes memory sees the request. How often it does depends on how busy the machine
            # is: so it is none of what is counted.
            program.say("aside 100")
        self.assertRegex(tool.stderr.readline(), r"^hakmem: process \d+ \(.*\) samples for 3000 s$")
        return tool

    def finish(self, tool, file=None):
        tool.send_signal(signal.SIGINT)
        self.assertEqual(tool.wait(), 0, tool.stderr.read())
        raw = Raw(file or self.file)
        self.assertEqual(raw.lines[0], "hakmem-profile 1")
        self.assertEqual(raw.lines[-1], "end")
        return raw

    def fails(self, pid, *options):
        """The exit status and what is said."""
        tool = self.command(pid, *options)
        said = tool.communicate()[1]
        return tool.returncode, said

    def test_on_and_off(self):
        for library in LIBRARIES:
            with self.subTest(library=library):
                program = self.start(library)
                program.say("keep 5000")
                program.say("churn 3")
                tool = self.begin(program)
                program.say("keep 4000")
                raw = self.finish(tool)
                self.assertEqual(int(raw.head["pid"]), program.pid)
                self.assertEqual(raw.head["program"], PROGRAM)
                self.assertEqual(raw.head["partial"], "1")
                self.assertEqual(raw.head["period"], "8192")
                self.assertGreater(int(raw.head["live_bytes"]), 9000 * 1000)
                self.assertTrue(all(re.fullmatch("-|[0-9a-f]{8,64}", m[3]) for m in raw.maps))
                self.assertTrue(any(line.startswith("point ") for line in raw.lines))
                # More than six standard deviations of 4.4 %.
                self.assertAlmostEqual(raw.kept() / 4000, 1, delta=0.3)
                # Off: what is kept now is not seen, and what was seen is still live.
                program.say("keep 30000")
                again = self.finish(self.begin(program))
                self.assertAlmostEqual(again.kept() / raw.kept(), 1, delta=0.1)

    def test_again_and_again_while_threads_end_and_libraries_are_loaded(self):
        program = self.start()
        program.say("births")
        program.say("churn 2")
        for _ in range(5):
            tool = self.begin(program, "--period", "2000")
            program.say("load")
            raw = self.finish(tool)
            program.say("load")
            self.assertGreater(len(raw.stacks), 1)

    def test_a_forked_child_is_not_asked(self):
        program = self.start()
        program.say("churn 2")
        tool = self.begin(program)
        child = program.fork()
        program.say("keep 2000")
        other = self.file + " of the child"
        second = self.begin(program, pid=child, file=other)
        raw = self.finish(second, file=other)
        self.assertEqual(int(raw.head["pid"]), child)
        # Six standard deviations of 6.2 %.
        self.assertAlmostEqual(self.finish(tool).kept() / 2000, 1, delta=0.4)

    def test_a_process_that_ends_or_becomes_another(self):
        for line, answer in (("end", None), ("exec", "ready")):
            with self.subTest(line=line):
                program = self.start()
                tool = self.begin(program)
                if answer:
                    program.say(line, answer)
                else:
                    program.process.stdin.write(line + "\n")
                    program.process.wait()
                said = tool.communicate()[1]
                self.assertRegex(said, ENDED)
                self.assertIn(tool.returncode, (0, 3), "0 if it was looked at before")

    def test_one_that_samples_already(self):
        program = self.start(PROFILE=self.file + ".own", PROFILE_PERIOD="8192", PROFILE_EXIT="0")
        program.say("keep 4000")
        program.process.send_signal(signal.SIGSTOP)  # as one that hangs
        for _ in range(2):
            self.assertEqual(self.fails(program.pid)[0], 0)
            raw = Raw(self.file)
            self.assertEqual(raw.head["partial"], "0")
            self.assertAlmostEqual(raw.kept() / 4000, 1, delta=0.3)
        program.process.send_signal(signal.SIGCONT)

    def test_the_programs_own_profile_stays(self):
        program = self.start()
        tool = self.begin(program)
        program.say("start")
        self.finish(tool)
        self.assertEqual(self.fails(program.pid)[0], 0)
        self.assertEqual(Raw(self.file).head["partial"], "0")
        program.say("stop")
        self.finish(self.begin(program))

    def test_one_command_at_a_time_and_one_that_was_killed(self):
        program = self.start()
        program.say("churn 2")
        tool = self.begin(program)
        status, said = self.fails(program.pid)
        self.assertEqual(status, 8)
        self.assertRegex(said, "is sampled by another `hakmem profile`")
        tool.kill()
        tool.wait()
        while status == 8:  # until it has forgotten
            program.say("aside 100")
            status, said = self.fails(program.pid, "--seconds", "1")
        self.assertEqual(status, 0, said)

    def test_one_that_does_not_answer(self):
        program = self.start()
        status, said = self.fails(program.pid, "--seconds", "1")
        self.assertEqual(status, 8)
        self.assertIn("it took no fresh memory from hakmem", said)
        program.say("keep 20000")  # the request is withdrawn
        self.assertLess(self.finish(self.begin(program)).kept(), 100)

    def test_refusals(self):
        self.assertEqual(self.fails(2**30)[0], 3)
        with subprocess.Popen(["sleep", "3000"]) as other:
            status, said = self.fails(other.pid)
            other.kill()
        self.assertEqual(status, 5, said)
        self.assertIn("hakmem is not in process", said)
        for options in (("--interval", "1"), ("--children",), ("--seconds", "0")):
            self.assertEqual(self.fails(1, *options)[0], 2)
        tool = self.command("/bin/true", "--seconds", "1")
        self.assertIn("--seconds is for a running process", tool.communicate()[1])
        self.assertEqual(tool.returncode, 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[5:])

"""An installation in an empty folder, for tests: made by the real script, removed by it.

with Installation(script) as there: there.prefix, there.libdir, there.environment
"""

import os
import shutil
import subprocess
import tempfile


def run(*command, env=None, cwd=None):
    """The finished process; standard error is kept apart."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd
    )


def output(*command, env=None, cwd=None):
    """What the command prints; a failure shows all that it said."""
    done = run(*command, env=env, cwd=cwd)
    if done.returncode != 0:
        raise AssertionError(
            "%s: exit status %d\n%s%s"
            % (" ".join(command), done.returncode, done.stdout, done.stderr)
        )
    return done.stdout


def tree(top):
    """Every file, link and folder below `top`, relative to it."""
    found = []
    for folder, folders, files in os.walk(top):
        found += [os.path.relpath(os.path.join(folder, name), top) for name in files + folders]
    return sorted(found)


class Installation:
    def __init__(self, script, *arguments):
        self.script, self.arguments = os.path.abspath(script), arguments

    def __enter__(self):
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.prefix = self.folder + "/prefix"
        self.libdir = self.prefix + "/lib"
        self.environment = {
            "HOME": self.folder,
            "PATH": self.prefix + "/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PKG_CONFIG_PATH": self.libdir + "/pkgconfig",
            "CMAKE_PREFIX_PATH": self.prefix,
            "LANG": "C.UTF-8",
        }
        output(self.script, "--prefix", self.prefix, *self.arguments)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder)

    def output(self, *command, **environment):
        """Runs a command in the folder, with the installation in its paths."""
        return output(*command, env=dict(self.environment, **environment), cwd=self.folder)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

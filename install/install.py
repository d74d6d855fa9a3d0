"""Installs hakmem below a prefix, or removes it again.

What was written is listed in LIBDIR/hakmem/installed.txt, files and the folders that were made;
--uninstall removes that and nothing else. A file is replaced in one step, so that a program that
runs on an older library keeps it.
"""

import argparse
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layout  # noqa: E402

USAGE = "install [--prefix DIR] [--libdir DIR] [--destdir DIR] [--uninstall]"
LICENCE_FOLDER = "share/doc/hakmem"


class Failed(Exception):
    """What went wrong, in a line."""


def parsed(arguments):
    parser = argparse.ArgumentParser(prog="install", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--prefix", default="/usr/local", help="where to install: %(default)s")
    parser.add_argument("--libdir", default="lib", help="libraries, below the prefix: %(default)s")
    parser.add_argument("--destdir", default="", help="put in front of every path, for packages")
    parser.add_argument("--uninstall", action="store_true", help="remove what was installed there")
    options = parser.parse_args(arguments)
    for name in ("prefix", "libdir"):
        if not getattr(options, name):
            parser.error("argument --%s: a folder is needed" % name)
    options.libdir = os.path.normpath(options.libdir)
    if os.path.isabs(options.libdir) or options.libdir.split("/")[0] == "..":
        parser.error("argument --libdir: '%s' is not below the prefix" % options.libdir)
    user = os.environ.get("BUILD_WORKING_DIRECTORY", os.getcwd())
    options.prefix = os.path.normpath(os.path.join(user, options.prefix))
    options.destdir = options.destdir and os.path.normpath(os.path.join(user, options.destdir))
    if "\n" in options.prefix + options.destdir + options.libdir:
        parser.error("a folder's name has a line break")
    return options


class Installed:
    """What lies below destdir + prefix, and the list of it."""

    def __init__(self, options):
        self.top = options.destdir + options.prefix
        self.list = "%s/hakmem/installed.txt" % options.libdir
        self.folders, self.files = [], []

    def read(self):
        """True if there is a list."""
        try:
            with open(os.path.join(self.top, self.list), encoding="utf-8") as stream:
                names = stream.read().splitlines()
        except FileNotFoundError:
            return False
        for name in names:
            if os.path.isabs(name) or ".." in name.split("/"):
                raise Failed("%s/%s names '%s'" % (self.top, self.list, name))
        self.folders = [name[:-1] for name in names if name.endswith("/")]
        self.files = [name for name in names if not name.endswith("/")]
        return True

    def make_folder(self, path):
        """Makes a folder below the top, the top and those above it too, and lists what was new."""
        above = []
        while not os.path.isdir(os.path.join(self.top, path)):
            above.append(path)
            if not path:
                break
            path = os.path.dirname(path)
        if above and above[-1] == "":
            os.makedirs(self.top)
            above.pop()
        for folder in reversed(above):
            os.mkdir(os.path.join(self.top, folder), 0o755)
            os.chmod(os.path.join(self.top, folder), 0o755)
            self.folders.append(folder)

    def put(self, path, mode=0o644, source=None, content=None, target=None):
        """Writes a file or a link beside its place, then moves it there."""
        self.make_folder(os.path.dirname(path))
        place = os.path.join(self.top, path)
        if os.path.isdir(place) and not os.path.islink(place):
            raise Failed(place + " is a folder")
        folder = tempfile.mkdtemp(prefix=".hakmem-", dir=os.path.dirname(place))
        try:
            made = os.path.join(folder, "new")
            if target is not None:
                os.symlink(target, made)
            else:
                if source:
                    shutil.copyfile(source, made)
                else:
                    with open(made, "w", encoding="utf-8") as stream:
                        stream.write(content)
                os.chmod(made, mode)
            os.replace(made, place)
        finally:
            shutil.rmtree(folder)

    def remove(self, paths):
        for path in paths:
            try:
                os.unlink(os.path.join(self.top, path))
            except FileNotFoundError:
                pass

    def write_list(self):
        self.make_folder(os.path.dirname(self.list))
        names = set(self.files) | {folder + "/" for folder in self.folders}
        self.put(self.list, content="\n".join(sorted(names)) + "\n")


def install(options, built):
    installed = Installed(options)
    installed.read()
    before = set(installed.files)
    wanted = layout.entries(built, options.prefix, options.libdir)
    for name in ("LICENSE", "CHANGELOG.md"):
        path = os.path.join(layout.ROOT, name)
        wanted.append(layout.file("lib", "%s/%s" % (LICENCE_FOLDER, name), path))
    now = {entry.path for entry in wanted} | {installed.list}
    # The list comes first, so that --uninstall removes a half-done work too.
    for path in sorted(now):
        installed.make_folder(os.path.dirname(path))
    installed.files = sorted(before | now)
    installed.write_list()
    for entry in wanted:
        installed.put(entry.path, entry.mode, entry.source, entry.text, entry.target)
    installed.remove(before - now)
    installed.files = sorted(now)
    installed.write_list()
    print("hakmem %s: %d files below %s" % (
        layout.version(), len(installed.files), installed.top))
    if not options.destdir and os.geteuid() == 0:
        print("If the loader looks in %s/%s, run ldconfig." % (options.prefix, options.libdir))


def uninstall(options):
    installed = Installed(options)
    if not installed.read():
        raise Failed("nothing is installed there: no %s/%s" % (installed.top, installed.list))
    installed.remove(installed.files)
    for folder in sorted(installed.folders, reverse=True):
        try:
            os.rmdir(os.path.join(installed.top, folder))
        except OSError:
            pass  # another's file lies in it, or it has gone
    print("hakmem: removed %d files below %s" % (len(installed.files), installed.top))


def main():
    options = parsed(sys.argv[1:])
    try:
        if options.uninstall:
            uninstall(options)
        else:
            install(options, layout.built())
    except (Failed, OSError) as error:
        print("install: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The Debian packages: what lintian says of them, and that they can be installed, used and purged.

deb_test.py PACKAGE.deb... -- CASES

dpkg installs them into a root that is empty except for its own data base; no package is there that
they depend on, which dpkg is asked to pass over. Programs are built with the system's compiler
against what lies in that root.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layout  # noqa: E402
from install_test import PROGRAM, SAID, SONAME  # noqa: E402
from installed import output, run, tree  # noqa: E402

PACKAGES = [os.path.abspath(path) for path in sys.argv[1 : sys.argv.index("--")]]
NAMES = ["hakmem-tools", "libhakmem-dev", "libhakmem0"]
# Fortified calls check the buffers of libc's functions; an allocator calls none of these.
ACCEPTED = {"hardening-no-fortify-functions"}
CAN_INSTALL = os.geteuid() == 0 or shutil.which("fakeroot") or "NO_SKIP" in os.environ


class Root:
    """An empty root with a data base of dpkg."""

    def __enter__(self):
        self.top = os.path.realpath(tempfile.mkdtemp())
        for name in ("info", "updates", "triggers"):
            os.makedirs(self.top + "/var/lib/dpkg/" + name)
        for name in ("status", "available"):
            open(self.top + "/var/lib/dpkg/" + name, "w").close()
        self.empty = self.files()
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.top)

    def dpkg(self, *arguments):
        path = "/usr/sbin:/sbin:/usr/bin:/bin"
        # Files belong to root, which only root can say, or who fakes it.
        as_root = [] if os.geteuid() == 0 else ["fakeroot"]
        return output(
            *as_root, "dpkg", "--root=" + self.top, "--force-depends", "--force-not-root",
            "--log=/dev/null", *arguments, env={"PATH": path, "LANG": "C.UTF-8"}
        )

    def files(self):
        """All that is no data base of dpkg."""
        return [path for path in tree(self.top) if not path.startswith("var/lib/dpkg/")]


class Packages(unittest.TestCase):
    def test_names_and_version(self):
        found = []
        for path in PACKAGES:
            fields = output("dpkg-deb", "--field", path, "Package", "Version", "Depends")
            found.append(re.search("Package: (.*)", fields).group(1))
            self.assertIn("Version: %s\n" % layout.version(), fields)
            if found[-1] != "libhakmem0":
                self.assertIn("libhakmem0 (= %s)" % layout.version(), fields)
        self.assertEqual(sorted(found), NAMES)

    def test_files_belong_to_root(self):
        for path in PACKAGES:
            for line in output("dpkg-deb", "--contents", path).splitlines():
                self.assertIn("root/root", line)

    def test_no_file_is_in_two(self):
        seen = []
        for path in PACKAGES:
            rows = output("dpkg-deb", "--contents", path).splitlines()
            seen += [row.split()[5] for row in rows if not row.startswith("d")]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertGreater(len(seen), 50)

    @unittest.skipUnless(CAN_INSTALL, "SKIPPED: neither root nor fakeroot (Debian: fakeroot)")
    def test_installed_used_and_purged(self):
        with Root() as root:
            root.dpkg("--install", *PACKAGES)
            for name in NAMES:
                self.assertIn("Status: install ok installed", root.dpkg("--status", name))
            self.use(root.top)
            root.dpkg("--purge", *NAMES)
            self.assertEqual(root.files(), root.empty)

    def use(self, top):
        """Compiles and runs against what is installed there."""
        libdir = "%s/usr/lib/%s" % (top, output("gcc", "-print-multiarch").strip())
        environment = {
            "PATH": top + "/usr/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": libdir,
            "PKG_CONFIG_LIBDIR": libdir + "/pkgconfig",
            "PKG_CONFIG_SYSROOT_DIR": top,
            "CMAKE_PREFIX_PATH": top + "/usr",
            "HOME": top,
        }
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/program.cc", "w", encoding="utf-8") as stream:
                stream.write(PROGRAM)

            def build_and_run(*flags):
                compiler = ["g++", "-std=c++17", "program.cc", "-o", "program"]
                output(*compiler, *flags, env=environment, cwd=folder)
                said = output("./program", env=environment, cwd=folder)
                self.assertEqual(said, SAID, flags)

            build_and_run("-I%s/usr/include" % top, "-L" + libdir, "-lhakmem")
            self.assertIn("[%s]" % SONAME, output("readelf", "-d", folder + "/program"))
            build_and_run(
                "-static", "-I%s/usr/include" % top, "-Wl,--undefined=hak_malloc",
                libdir + "/libhakmem.a", "-pthread"
            )
            if shutil.which("pkg-config"):
                flags = output("pkg-config", "--cflags", "--libs", "hakmem", env=environment)
                build_and_run(*flags.split())
        said = output("hakmem", "path", env=environment)
        self.assertEqual(said, "%s/libhakmem.so.%s\n" % (libdir, layout.version()))
        said = output("hakmem", "run", "sh", "-c", "echo $LD_PRELOAD", env=environment)
        self.assertEqual(said, "%s/libhakmem.so.%s\n" % (libdir, layout.version()))

    @unittest.skipUnless(CAN_INSTALL, "SKIPPED: neither root nor fakeroot (Debian: fakeroot)")
    def test_library_alone(self):
        (library,) = [path for path in PACKAGES if "libhakmem0" in path]
        with Root() as root:
            root.dpkg("--install", library)
            libdir = "%s/usr/lib/%s" % (root.top, output("gcc", "-print-multiarch").strip())
            said = output(
                sys.executable, "-c",
                "import ctypes; v = ctypes.CDLL(None).hak_variant; v.restype = ctypes.c_char_p;"
                "print(v().decode())",
                env={"LD_PRELOAD": libdir + "/" + SONAME},
            )
            self.assertEqual(said, "release\n")
            root.dpkg("--remove", "libhakmem0")
            self.assertEqual(root.files(), root.empty)

    def test_symbols_are_those_of_the_library(self):
        (library,) = [path for path in PACKAGES if "libhakmem0" in path]
        text = output("dpkg-deb", "--info", library, "symbols")
        self.assertTrue(text.startswith(SONAME + " libhakmem0"))
        names = re.findall(r"(?m)^ (\S+)@Base", text)
        self.assertGreater(len(names), 70)
        for name in ("malloc", "_Znwm", "hak_malloc", "hak_heap_walk"):
            self.assertIn(name, names)


class Lintian(unittest.TestCase):
    def test_clean(self):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                ["lintian", "--allow-root", "--display-info", "--fail-on", "error,warning",
                 *PACKAGES],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=dict(os.environ, HOME=home, LANG="C.UTF-8"),
            )
        rows = [line for line in done.stdout.splitlines() if not line.startswith("N:")]
        tags = {row.split(": ")[2].split()[0] for row in rows}
        self.assertEqual((done.returncode, tags - ACCEPTED), (0, set()), done.stdout + done.stderr)
        # The tag that is accepted is there: lintian did look.
        self.assertEqual(tags, ACCEPTED)

    def test_a_wrong_package_is_found(self):
        """The test itself: a package without a copyright is not clean."""
        with tempfile.TemporaryDirectory() as folder:
            output("dpkg-deb", "--raw-extract", PACKAGES[0], folder + "/tree")
            (pages,) = os.listdir(folder + "/tree/usr/share/doc")
            os.remove("%s/tree/usr/share/doc/%s/copyright" % (folder, pages))
            output("dpkg-deb", "--root-owner-group", "--build", folder + "/tree", folder + "/a.deb")
            done = run("lintian", "--allow-root", "--fail-on", "error", folder + "/a.deb",
                       env=dict(os.environ, HOME=folder))
            self.assertIn("no-copyright-file", done.stdout)
            self.assertNotEqual(done.returncode, 0)


if __name__ == "__main__":
    cases = sys.argv[sys.argv.index("--") + 1 :]
    unittest.main(argv=[sys.argv[0]] + cases, verbosity=2)

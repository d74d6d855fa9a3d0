"""What an installation consists of: every file, where it goes, and in which package.

entries() is the one list; install.py copies it below a prefix, deb.py makes packages of it.
"""

import collections
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tools"))
import public_header  # noqa: E402

PACKAGES = ("lib", "dev", "tools")

# package: one of PACKAGES. path: below the prefix. Exactly one of source (a file to copy), text and
# target (of a symbolic link, relative to the link's folder) is not None.
Entry = collections.namedtuple("Entry", "package path mode source text target")


def version():
    return public_header.version(public_header.read(ROOT))


def file(package, path, source, mode=0o644):
    return Entry(package, path, mode, source, None, None)


def text(package, path, content):
    return Entry(package, path, 0o644, None, content, None)


def link(package, path, target):
    return Entry(package, path, None, None, None, target)


def template(name, values):
    """The text of a file NAME.in of this folder, each @KEY@ replaced."""
    with open(os.path.join(ROOT, "install", name + ".in"), encoding="utf-8") as stream:
        content = stream.read()
    for key, value in values.items():
        content = content.replace("@%s@" % key, value)
    assert "@" not in content, name
    return content


def libraries(built, libdir):
    """The libraries; `built` is {name: path}: variant/NAME, static, record, replay,
    report."""
    full, soname = "libhakmem.so." + version(), "libhakmem.so." + version().split(".")[0]
    own = libdir + "/hakmem"
    found = [
        file("lib", "%s/%s" % (libdir, full), built["variant/release"]),
        link("lib", "%s/%s" % (libdir, soname), full),
        link("dev", libdir + "/libhakmem.so", soname),
        file("dev", libdir + "/libhakmem.a", built["static"]),
        file(
            "tools",
            "%s/libhakmem_record.so.%s" % (own, version().split(".")[0]),
            built["record"],
        ),
        file("tools", own + "/hakmem-replay", built["replay"], 0o755),
        file("tools", own + "/hakmem-report", built["report"], 0o755),
    ]
    for name in sorted(built):
        if name.startswith("variant/") and name != "variant/release":
            path = "%s/%s/%s" % (own, name[len("variant/") :], soname)
            found.append(file("lib", path, built[name]))
    return found


def development(built, prefix, libdir):
    """Headers, and what build systems ask."""
    values = {
        "VERSION": version(),
        "MAJOR": version().split(".")[0],
        "MINOR": version().split(".")[1],
        "PREFIX": prefix,
        "LIBDIR": libdir,
        # From libdir/cmake/hakmem back to the prefix.
        "UP": "/".join([".."] * (libdir.count("/") + 3)),
    }
    places = {
        "hakmem.pc": "pkgconfig",
        "hakmem-static.pc": "pkgconfig",
        "hakmemConfig.cmake": "cmake/hakmem",
        "hakmemConfigVersion.cmake": "cmake/hakmem",
    }
    found = [
        file("dev", "include/hakmem/" + os.path.basename(path), path)
        for name, path in sorted(built.items())
        if name.startswith("header/")
    ]
    for name, folder in places.items():
        found.append(text("dev", "%s/%s/%s" % (libdir, folder, name), template(name, values)))
    return found


def manual(built):
    """Manual pages; each function of the header is a name of hakmem.3, each subcommand has one."""
    found = []
    with open(built["man/1"], encoding="utf-8") as stream:
        parts = re.split(r'(?m)^\.\\" Page (\S+)\n', stream.read())
    for name, content in zip(parts[1::2], parts[2::2]):
        found.append(text("tools", "share/man/man1/%s.1" % name, content))
    for section, package in (("3", "dev"), ("7", "lib")):
        path = "share/man/man%s/hakmem.%s" % (section, section)
        found.append(file(package, path, built["man/" + section]))
    for name in public_header.functions(public_header.read(ROOT)):
        found.append(link("dev", "share/man/man3/%s.3" % name, "hakmem.3"))
    return found


def entries(built, prefix, libdir):
    """[Entry]: the whole installation. libdir is relative to the prefix."""
    found = libraries(built, libdir) + development(built, prefix, libdir) + manual(built)
    found.append(file("tools", "bin/hakmem", built["command"], 0o755))
    completions = "share/bash-completion/completions/hakmem"
    found.append(file("tools", completions, built["completion"]))
    assert len({entry.path for entry in found}) == len(found)
    return found


def built(path=os.path.join(ROOT, "install", "built.txt")):
    """{name: path} of what Bazel has made, from the list that it has written. In run files all lies
    below the root; in an action, beside the list, or in the sources."""
    with open(path, encoding="utf-8") as stream:
        rows = [line.split("=", 1) for line in stream.read().splitlines()]
    made = os.path.join(os.path.dirname(path), "..")
    found = {}
    for name, relative in rows:
        places = [os.path.join(top, relative) for top in (made, ROOT)]
        found[name] = next(place for place in places if os.path.exists(place))
    return found

"""Makes a Debian package of one part of the installation.

deb.py PACKAGE BUILT.txt OUT.deb        PACKAGE is lib, dev or tools

The same input gives the same bytes: files have the date of the change log's first entry.
"""

import datetime
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "install"))
import layout  # noqa: E402

# Whoever builds these packages hands them out; the project has no mail address.
MAINTAINER = "hakmem contributors <hakmem@example.com>"
NAMES = {"lib": "libhakmem0", "dev": "libhakmem-dev", "tools": "hakmem-tools"}
CONTROL = {
    "lib": """Section: libs
Multi-Arch: same
Depends: libc6 (>= {libc})
Description: memory allocator - shared library
 hakmem serves malloc, free and C++'s operators new and delete of any program
 that is linked with it or has it preloaded. It aims to be fast, to keep little
 memory, and to say plainly what is wrong when something is.
 .
 This package has the library in its release variant, and variants that find
 more misuse.
""",
    "dev": """Section: libdevel
Multi-Arch: same
Depends: libhakmem0 (= {version})
Description: memory allocator - headers and static library
 hakmem serves malloc, free and C++'s operators new and delete of any program
 that is linked with it or has it preloaded.
 .
 This package has what is needed to build programs with it: headers for C and
 C++, the static library, and files for pkg-config and CMake.
""",
    "tools": """Section: utils
Depends: libc6 (>= {libc}), libgcc-s1, libhakmem0 (= {version}), libstdc++6
Recommends: libdw1
Description: memory allocator - run programs under it, and record their calls
 hakmem serves malloc, free and C++'s operators new and delete of any program
 that is linked with it or has it preloaded.
 .
 This package has the command hakmem, which runs a program under the library,
 and records each of its calls of malloc to a file.
""",
}
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: hakmem

Files: *
Copyright: {years} hakmem contributors
License: Expat
{text}

Files: report/bundle/bundle.min.js
Copyright: 2010-2026 Mike Bostock
 2001 Robert Penner
 Martin Spier and contributors
License: ISC and BSD-3-Clause and Apache-2.0
 Each page that hakmem-report makes holds the texts of these licenses. On Debian
 systems, the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.
"""


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def release():
    """(version, date) of the change log's first entry."""
    with open(os.path.join(ROOT, "CHANGELOG.md"), encoding="utf-8") as stream:
        entry = re.search(r"(?m)^## ([\d.]+) \((\d+)-(\d+)-(\d+)\)$", stream.read())
    version, *date = entry.groups()
    assert version == layout.version(), "the change log's first entry is of another version"
    return version, datetime.datetime(*map(int, date), tzinfo=datetime.timezone.utc)


def changes():
    """The items of the change log's first entry, one a line."""
    with open(os.path.join(ROOT, "CHANGELOG.md"), encoding="utf-8") as stream:
        entry = stream.read().split("\n## ")[1]
    return [" ".join(item.split()).replace("`", "") for item in entry.split("\n- ")[1:]]


def debian_changelog(version, date):
    lines = ["hakmem (%s) unstable; urgency=medium" % version, ""]
    for item in changes():
        words, line = item.split(), "  *"
        for word in words:
            if len(line) + 1 + len(word) > 78:
                lines.append(line)
                line = "   "
            line += " " + word
        lines.append(line)
    stamp = date.strftime("%a, %d %b %Y %H:%M:%S +0000")
    return "\n".join(lines + ["", " -- %s  %s" % (MAINTAINER, stamp), ""])


def copyright_text():
    with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as stream:
        text = stream.read()
    years = re.search(r"Copyright \(c\) ([\d-]+)", text).group(1)
    body = text.split("\n\n", 2)[2].rstrip()
    body = "\n".join(" " + (line or ".") for line in body.split("\n"))
    return COPYRIGHT.format(years=years, text=body)


def strip(path):
    """Takes out what no program needs: symbols that nothing links to, debugging data, remarks."""
    if path.endswith(".a"):
        run("strip", "--strip-debug", "-R", ".comment", "-D", path)
    else:
        run("strip", "--strip-unneeded", "-R", ".comment", "-R", ".note", path)


def newest_libc(folder):
    """The newest version of libc whose symbols an object in the folder asks for."""
    found = {(2, 34)}
    for path in files_of(folder):
        with open(path, "rb") as stream:
            if stream.read(4) == b"\x7fELF":
                for text in re.findall(r"GLIBC_(\d+\.\d+)", run("readelf", "-VW", path)):
                    found.add(tuple(map(int, text.split("."))))
    return "%d.%d" % max(found)


def files_of(folder):
    found = []
    for top, _, files in os.walk(folder):
        found += [os.path.join(top, name) for name in files]
    return sorted(path for path in found if not os.path.islink(path))


def write(path, content, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(content if isinstance(content, bytes) else content.encode())
    os.chmod(path, mode)


def packed(content):
    return gzip.compress(content if isinstance(content, bytes) else content.encode(), 9, mtime=0)


def put(folder, entry):
    """One entry of the layout below folder/usr; manual pages are compressed."""
    path = os.path.join(folder, "usr", entry.path)
    is_page = entry.path.startswith("share/man/")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if entry.target is not None:
        os.symlink(entry.target + (".gz" if is_page else ""), path + (".gz" if is_page else ""))
        return
    content = entry.text
    if entry.source:
        with open(entry.source, "rb") as stream:
            content = stream.read()
    if is_page:
        write(path + ".gz", packed(content))
        return
    write(path, content, entry.mode)
    if entry.source and (content[:4] == b"\x7fELF" or path.endswith(".a")):
        strip(path)


def symbols(folder, version):
    """DEBIAN/symbols: each name that the library exports, since which version."""
    (path,) = [p for p in files_of(folder) if p.endswith("/libhakmem.so." + version)]
    names = []
    for line in run("readelf", "--dyn-syms", "-W", path).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[6].isdigit() and fields[4] in ("GLOBAL", "WEAK"):
            names.append(fields[7])
    head = "libhakmem.so.%s libhakmem0 #MINVER#\n" % version.split(".")[0]
    head += "* Build-Depends-Package: libhakmem-dev\n"
    return head + "".join(" %s@Base %s\n" % (name, version) for name in sorted(names))


def control_files(package, folder, version):
    architecture = run("dpkg", "--print-architecture").strip()
    size = sum(-(-os.path.getsize(path) // 1024) for path in files_of(folder))
    control = "Package: %s\nSource: hakmem\nVersion: %s\n" % (NAMES[package], version)
    control += "Architecture: %s\nMaintainer: %s\n" % (architecture, MAINTAINER)
    control += "Installed-Size: %d\nPriority: optional\n" % size
    control += CONTROL[package].format(version=version, libc=newest_libc(folder))
    sums = ""
    for path in files_of(folder):
        with open(path, "rb") as stream:
            digest = hashlib.md5(stream.read()).hexdigest()
        sums += "%s  %s\n" % (digest, os.path.relpath(path, folder))
    found = {"control": control, "md5sums": sums}
    if package == "lib":
        found["triggers"] = "activate-noawait ldconfig\n"
        found["shlibs"] = "libhakmem %s libhakmem0 (>= %s)\n" % (version.split(".")[0], version)
        found["symbols"] = symbols(folder, version)
    return found


def set_dates(folder, seconds):
    for top, folders, files in os.walk(folder):
        os.chmod(top, 0o755)
        for name in folders + files:
            os.utime(os.path.join(top, name), (seconds, seconds), follow_symlinks=False)
    os.utime(folder, (seconds, seconds))


def make(package, built, out):
    version, date = release()
    folder = tempfile.mkdtemp()
    try:
        machine = run("gcc", "-print-multiarch").strip()
        for entry in layout.entries(layout.built(built), "/usr", "lib/" + machine):
            if entry.package == package:
                put(folder, entry)
        pages = "%s/usr/share/doc/%s/" % (folder, NAMES[package])
        write(pages + "copyright", copyright_text())
        write(pages + "changelog.gz", packed(debian_changelog(version, date)))
        control = control_files(package, folder, version)
        for name, content in control.items():
            write("%s/DEBIAN/%s" % (folder, name), content)
        set_dates(folder, int(date.timestamp()))
        os.environ["SOURCE_DATE_EPOCH"] = str(int(date.timestamp()))
        run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", folder, out)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    make(*sys.argv[1:4])

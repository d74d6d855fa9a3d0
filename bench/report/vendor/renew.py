"""renew: bundles the page's libraries from npm into charts.js, and writes charts.json.

renew           installs what package-lock.json pins, and bundles entry.js
renew --lock    the same after package.json was changed: makes a new package-lock.json
renew --check   bundles, and compares with what is checked in: exit status 1 if it differs

The bundle begins with the licences of all that is in it, so that each page has them. Needs npm
(Debian: npm). It runs no script of a package.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

FOLDER = os.path.dirname(os.path.realpath(__file__))
BUNDLE, ABOUT = "charts.js", "charts.json"
SOURCES = ("entry.js", "package.json", "package-lock.json")
USAGE = "usage: renew.py [--lock | --check]\n"
NPM = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved"]


def installed(folder, is_new):
    """Puts the packages into a folder."""
    for name in SOURCES:
        if os.path.exists(os.path.join(FOLDER, name)) and not (is_new and "lock" in name):
            shutil.copy(os.path.join(FOLDER, name), folder)
    subprocess.run(["npm", "install" if is_new else "ci", *NPM], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip


def bundled(folder):
    """(the bundle's text, names of the packages that are in it)."""
    subprocess.run(
        ["node_modules/.bin/esbuild", "entry.js", "--bundle", "--minify", "--format=iife",
         "--global-name=charts", "--charset=ascii", "--target=es2020", "--legal-comments=none",
         "--log-level=warning", "--outfile=out.js", "--metafile=meta.json"],
        cwd=folder, check=True,
    )  # fmt: skip
    with open(os.path.join(folder, "meta.json"), encoding="utf-8") as file:
        meta = json.load(file)
    names = set()
    (out,) = meta["outputs"].values()
    for path, used in out["inputs"].items():
        words = path.split("/")
        if words[0] == "node_modules" and used["bytesInOutput"]:
            names.add("/".join(words[1:3] if words[1].startswith("@") else words[1:2]))
    with open(os.path.join(folder, "out.js"), encoding="utf-8") as file:
        return file.read(), sorted(names)


def described(folder, name):
    """(version, licence's name, licence's text) of a package."""
    root = os.path.join(folder, "node_modules", name)
    with open(os.path.join(root, "package.json"), encoding="utf-8") as file:
        about = json.load(file)
    texts = [one for one in os.listdir(root) if one.upper().startswith("LICEN")]
    if not texts:
        raise SystemExit(f"renew: {name} has no text of its licence")
    with open(os.path.join(root, texts[0]), encoding="utf-8") as file:
        return about["version"], about["license"], file.read().strip()


def made(folder):
    """(charts.js, charts.json) as texts."""
    script, names = bundled(folder)
    packages, by_text = {}, {}
    for name in names:
        version, licence, text = described(folder, name)
        packages[name] = {"version": version, "license": licence}
        by_text.setdefault(text, []).append(f"{name} {version}")
    head = "\n\n".join(
        f"{', '.join(who)}\n\n{text}" for text, who in sorted(by_text.items(), key=lambda x: x[1])
    )
    bundle = f"/*! Libraries in this script, and their licences\n\n{head}\n*/\n{script}"
    about = {
        "sha256": hashlib.sha256(bundle.encode()).hexdigest(),
        "bytes": len(bundle.encode()),
        "packages": packages,
    }
    return bundle, json.dumps(about, indent=1) + "\n"


def read(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


def main(arguments):
    if len(arguments) > 1 or not set(arguments) <= {"--lock", "--check"}:
        sys.stderr.write(USAGE)
        return 2
    if not shutil.which("npm"):
        sys.stderr.write("renew: npm is not installed (Debian: npm)\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            installed(folder, "--lock" in arguments)
            texts = made(folder)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"renew: {error.cmd[0]} failed\n")
            return 1
        if "--check" in arguments:
            same = all(read(name) == text for name, text in zip((BUNDLE, ABOUT), texts))
            print("the same" if same else "what npm gives now differs from what is checked in")
            return 0 if same else 1
        for name, text in zip((BUNDLE, ABOUT), texts):
            with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as file:
                file.write(text)
        if "--lock" in arguments:
            shutil.copy(os.path.join(folder, "package-lock.json"), FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

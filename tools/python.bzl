"""python_test, python_binary: scripts run by the system's python3 (Bazel 4.2's own rules start
`python`, which Debian lacks)."""

load("@rules_shell//shell:sh_binary.bzl", "sh_binary")
load("@rules_shell//shell:sh_test.bzl", "sh_test")

def _python(rule, name, main, srcs, data, args, needs, **kwargs):
    needed = []
    for program, package in needs.items():
        needed += ["--needs", "%s=%s" % (program, package)]
    rule(
        name = name,
        srcs = ["//tools:python.sh"],
        args = needed + ["$(rootpath %s)" % main] + args,
        data = [main] + srcs + data,
        **kwargs
    )

def python_test(name, main, srcs = [], data = [], args = [], needs = {}, **kwargs):
    """A test that is a Python script.

    Args:
      name: of the test.
      main: the script.
      srcs: the modules of the same folder that it imports.
      data: what it reads.
      args: for the script.
      needs: {program: Debian package}. Without one of them the test is skipped, and says so; with
        --test_env=NO_SKIP=1 it fails. tools/packages.txt has a row for it, too.
      **kwargs: for the test.
    """
    _python(sh_test, name, main, srcs, data, args, needs, **kwargs)

def python_binary(name, main, srcs = [], data = [], args = [], **kwargs):
    """A Python script for `bazel run`, as python_test."""
    _python(sh_binary, name, main, srcs, data, args, {}, **kwargs)

"""python_test, python_binary: scripts run by the system's python3 (Bazel 4.2's own rules start
`python`, which Debian lacks)."""

def _python(rule, name, main, srcs, data, args, **kwargs):
    rule(
        name = name,
        srcs = ["//tools:python.sh"],
        args = ["$(rootpath %s)" % main] + args,
        data = [main] + srcs + data,
        **kwargs
    )

def python_test(name, main, srcs = [], data = [], args = [], **kwargs):
    """A test that is a Python script; srcs are the modules of the same folder that it imports."""
    _python(native.sh_test, name, main, srcs, data, args, **kwargs)

def python_binary(name, main, srcs = [], data = [], args = [], **kwargs):
    """A Python script for `bazel run`, as python_test."""
    _python(native.sh_binary, name, main, srcs, data, args, **kwargs)

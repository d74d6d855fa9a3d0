"""workload_test: one workload measured as a Bazel test."""

load("//bench/common:defs.bzl", "TAGS")
load("//tools:python.bzl", "python_test")

def workload_test(name, program, data = []):
    """Declares workload_NAME, which measures one workload of workloads.json.

    It leaves result.json and result.html as test outputs.

    Args:
      name: the workload's name in workloads.json.
      program: the target that bench_binaries made of its program; a test takes no others to the
        machine that runs it.
      data: files that the program reads.
    """
    python_test(
        name = "workload_" + name,
        size = "large",
        srcs = ["//bench:compare_modules"],
        data = data + [
            program,
            "//bench:measuring",
        ],
        args = [
            "--test-outputs",
            "--bench",
            name,
        ],
        main = "compare.py",
        # Alone on its machine while it runs.
        tags = TAGS + [
            "exclusive-if-local",
            "manual",
        ],
    )

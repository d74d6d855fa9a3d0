"""The repositories that hakmem needs, all of them from Debian's packages: nothing is downloaded."""

load(
    "//third_party:repositories.bzl",
    "coverage_tools",
    "debian_rules_cc",
    "native_rules_shell",
    "system_files",
    "system_local",
)

def hakmem_deps(dev = False):
    """Declares the repositories, each only if it is not declared yet.

    Args:
      dev: also what hakmem's own tests and comparisons need: GoogleTest, jemalloc, mimalloc and
        tcmalloc. A workspace that only links hakmem leaves it False.
    """
    _maybe(debian_rules_cc, name = "rules_cc")
    _maybe(native_rules_shell, name = "rules_shell")
    _maybe(system_local, name = "rules_java", path = "/usr/share/bazel/rules/java")
    _maybe(system_local, name = "bazel_skylib", path = "/usr/share/bazel/tools/skylib")
    _maybe(coverage_tools, name = "remote_coverage_tools")
    if dev:
        _dev_deps()

def _dev_deps():
    _maybe(
        system_files,
        name = "googletest",
        build_file = Label("//third_party:googletest.BUILD"),
        files = {"src": "/usr/src/googletest"},
        package = "googletest",
    )
    _maybe(
        system_files,
        name = "jemalloc",
        build_file = Label("//third_party:jemalloc.BUILD"),
        libraries = ["libjemalloc.so.2", "libjemalloc_pic.a"],
        package = "libjemalloc-dev",
    )
    _maybe(
        system_files,
        name = "mimalloc",
        build_file = Label("//third_party:mimalloc.BUILD"),
        libraries = ["libmimalloc.so.2"],
        package = "libmimalloc-dev",
    )
    _maybe(
        system_files,
        name = "tcmalloc",
        build_file = Label("//third_party:tcmalloc.BUILD"),
        libraries = ["libtcmalloc_minimal.so.4"],
        package = "libtcmalloc-minimal4",
    )

def _maybe(rule, name, **kwargs):
    if not native.existing_rule(name):
        rule(name = name, **kwargs)

"""Repository rules that make Bazel repositories of what Debian's packages have installed."""

_RULES_CC = "/usr/share/bazel/rules/cc"
_CPP_TOOLCHAIN = "[\"@bazel_tools//tools/cpp:toolchain_type\"]"

def _link_children(ctx, folder, into, but = []):
    for child in ctx.path(folder).readdir():
        if child.basename not in but:
            ctx.symlink(child, into + child.basename)

_MISSING = "%s is missing: it comes with the Debian package %s, which ./bazelw installs"

def _need(ctx, path, package):
    if not ctx.path(path).exists:
        fail(_MISSING % (path, package))

def _system_local_impl(ctx):
    _need(ctx, ctx.attr.path, "bazel-" + ctx.name.replace("bazel_", "").replace("_", "-"))
    _link_children(ctx, ctx.attr.path, "")

system_local = repository_rule(
    implementation = _system_local_impl,
    attrs = {"path": attr.string(mandatory = True)},
    doc = "A folder of Bazel files that a Debian package has installed.",
    local = True,
)

def _debian_rules_cc_impl(ctx):
    """rules_cc 0.0.4 with repairs of the two files that do not load on Bazel 4.2.3."""
    _need(ctx, _RULES_CC, "bazel-rules-cc")
    _link_children(ctx, _RULES_CC, "", but = ["cc"])
    _link_children(ctx, _RULES_CC + "/cc", "cc/", but = ["private"])
    _link_children(ctx, _RULES_CC + "/cc/private", "cc/private/", but = ["rules_impl"])
    broken = ["cc_flags_supplier.bzl", "compiler_flag.bzl"]
    rules_impl = "cc/private/rules_impl/"
    _link_children(ctx, _RULES_CC + "/" + rules_impl, rules_impl, but = broken)
    for name in broken:
        text = ctx.read(_RULES_CC + "/" + rules_impl + name)
        text = text.replace(", \"use_cpp_toolchain\")", ")")
        text = text.replace("use_cpp_toolchain()", _CPP_TOOLCHAIN)
        ctx.file(rules_impl + name, text, executable = False)

    # Where newer ones have it.
    ctx.file("cc/common/BUILD.bazel", "", executable = False)
    ctx.file("cc/common/native.bzl", "NativeCcInfo = CcInfo\n", executable = False)
    loading = "load(\":native.bzl\", \"NativeCcInfo\")\n\nCcInfo = NativeCcInfo\n"
    ctx.file("cc/common/cc_info.bzl", loading, executable = False)

debian_rules_cc = repository_rule(
    implementation = _debian_rules_cc_impl,
    doc = "Debian's rules_cc loads `use_cpp_toolchain`, which Debian's Bazel does not have yet; " +
          "this one does not load it.",
    local = True,
)

def _native_rules_shell_impl(ctx):
    ctx.file("BUILD.bazel", "", executable = False)
    ctx.file("shell/BUILD.bazel", "", executable = False)
    for rule in ["sh_binary", "sh_library", "sh_test"]:
        text = "def %s(**kwargs):\n    native.%s(**kwargs)\n" % (rule, rule)
        ctx.file("shell/%s.bzl" % rule, text, executable = False)

native_rules_shell = repository_rule(
    implementation = _native_rules_shell_impl,
    doc = "rules_shell for a Bazel that has these rules built in.",
    local = True,
)

def _coverage_tools_impl(ctx):
    merger = ctx.path(Label("//tools/coverage:lcov_merger.py"))
    ctx.symlink(merger, "lcov_merger.py")
    rows = ["package(default_visibility = [\"//visibility:public\"])"]
    for name in ["lcov_merger", "coverage_report_generator"]:
        rows.append("sh_binary(\n    name = \"%s\",\n    srcs = [\"lcov_merger.py\"],\n)" % name)
    ctx.file("BUILD.bazel", "\n\n".join(rows) + "\n", executable = False)

coverage_tools = repository_rule(
    implementation = _coverage_tools_impl,
    doc = "Turns gcov's output into lcov's; Bazel needs it as soon as it analyses a test.",
    local = True,
)

def _library_path(ctx, name):
    """The full path of a shared object or archive, as the compiler finds it."""
    compiler = ctx.which(ctx.os.environ.get("CC", "gcc")) or ctx.which("gcc")
    if not compiler:
        fail("no C compiler: ./bazelw installs gcc")
    return ctx.execute([compiler, "-print-file-name=" + name]).stdout.strip()

def _system_files_impl(ctx):
    for name, path in ctx.attr.files.items():
        _need(ctx, path, ctx.attr.package)
        ctx.symlink(path, name)
    for name in ctx.attr.libraries:
        path = _library_path(ctx, name)
        if not path.startswith("/"):
            fail(_MISSING % (name, ctx.attr.package))
        ctx.symlink(path, "lib/" + name)
    ctx.symlink(ctx.attr.build_file, "BUILD.bazel")

system_files = repository_rule(
    implementation = _system_files_impl,
    attrs = {
        "build_file": attr.label(mandatory = True),
        "files": attr.string_dict(doc = "name in the repository -> absolute path"),
        "libraries": attr.string_list(doc = "names of libraries, linked to lib/NAME"),
        "package": attr.string(
            mandatory = True,
            doc = "the Debian package, for the message if a file is missing",
        ),
    },
    doc = "Links to named files of a Debian package, and only to these.",
    local = True,
)

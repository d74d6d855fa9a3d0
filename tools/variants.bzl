"""Macros and rules that compose one source into the variants of variant_table.bzl, side by side in
one build.

For hakmem's own BUILD files:
  hak_component(name, deps, prefixes, ...)            a part: its library, its tests, its sources
  hak_component_record(component, prefixes, ...)      `component` and `sources` alone
  hak_cc_library(name, srcs, hdrs, deps, ...)         a C library, compiled as the variant asks
  hak_variant_cc_test(name, srcs, deps, ...)          a GoogleTest, run in each variant
  hak_variant_cc_tests(srcs = glob(["*_test.cc"]), deps, ...)  one hak_variant_cc_test a file

Over targets of any kind:
  variant_library(name, dep, variant)                 dep's library in a variant; for `malloc =`
                                                      wrap it in a cc_library
  variant_binary(name, src, variant)                  an executable in a variant
  variant_test(name, src, variant)                    a test that runs an executable in a variant
  variant_file(name, src, out, variant)               a file in a variant, under a name of its own
  renamed_file(name, src, out)                        a file under another name
"""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load(":variant_table.bzl", "DEFAULT_VARIANT", "VARIANTS")

# Labels in transitions and selects are strings that are read in whichever repository the build runs
# in; only str(Label()) means the same one everywhere. A wrong one is ignored without a word.
_FLAG = str(Label("//tools/config:variant"))
_COMPILATION_MODE = "//command_line_option:compilation_mode"

# What base/internal.h asks for. A local option: a define would reach consumers.
HAK_INTERNAL = "-DHAKMEM_INTERNAL=1"

_COPTS = [
    HAK_INTERNAL,
    "-std=c17",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror=implicit-function-declaration",
    "-fvisibility=hidden",
    "-ftls-model=initial-exec",
    "-fno-plt",
    # For //preload:layout.ld.
    "-ffunction-sections",
    "-fdata-sections",
    # Otherwise gcc turns the malloc and memset in our own calloc into a call of calloc, and drops
    # pairs of calls in tests.
    "-fno-builtin-malloc",
    "-fno-builtin-calloc",
    "-fno-builtin-realloc",
    "-fno-builtin-free",
]

_TEST_COPTS = [
    HAK_INTERNAL,
    "-std=c++17",
    "-D_GNU_SOURCE",
    "-O1",
    "-Wall",
    "-Wextra",
    "-fno-builtin-malloc",
    "-fno-builtin-calloc",
    "-fno-builtin-realloc",
    "-fno-builtin-free",
]

def _by_variant(field):
    return select({
        str(Label("//tools/config:" + variant)): getattr(row, field)
        for variant, row in VARIANTS.items()
    })

def variant_defines():
    """The defines of the variant that is built, as a select."""
    return select({
        str(Label("//tools/config:" + variant)): row.defines + [
            "HAKMEM_VARIANT=\\\"%s\\\"" % variant,
        ]
        for variant, row in VARIANTS.items()
    })

def hak_cc_library(name, copts = [], **kwargs):
    """A C library of hakmem.

    Args:
      name: of the target.
      copts: besides those that every part has.
      **kwargs: as for cc_library.
    """
    cc_library(
        name = name,
        copts = _COPTS + _by_variant("copts") + copts,
        defines = variant_defines(),
        # No shared object of each part: libhakmem.so is made of all of them.
        linkstatic = True,
        **kwargs
    )

def _component_record_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    lines = ["component " + ctx.attr.component]
    lines += ["prefix " + prefix for prefix in ctx.attr.prefixes]
    lines += ["public %s/%s" % (ctx.label.package, header) for header in ctx.attr.public_hdrs]
    ctx.actions.write(out, "\n".join(lines) + "\n")
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

_component_record = rule(
    implementation = _component_record_impl,
    attrs = {
        "component": attr.string(mandatory = True),
        "prefixes": attr.string_list(doc = "what names begin with that other files may use"),
        "public_hdrs": attr.string_list(doc = "what a consumer may include"),
    },
    doc = "Lines that tests read: `component NAME`, `prefix PREFIX`, `public HEADER`.",
)

def hak_component(
        name,
        prefixes,
        deps = [],
        public_hdrs = [],
        visibility = [],
        test_deps = [],
        test_exclude = [],
        test_kwargs = {},
        **kwargs):
    """A part of hakmem, from the files of its folder.

    Makes NAME (the library), a test of each *_test.cc in each variant (which may include the
    folder's *_testing.h), `sources`, and `component`
    (a file that names the part's prefixes and public headers).

    Every header may be included by the parts that depend on this one. A consumer may include
    `public_hdrs` alone: the others begin with base/internal.h, which stops a compiler that hakmem's
    own macros did not call.

    Args:
      name: of the library.
      prefixes: functions and variables that cross files are called hak_PREFIX...; //checks/names
        proves it.
      deps: the parts below.
      public_hdrs: headers that a consumer may include.
      visibility: of the library.
      test_deps: what its tests need besides //testing.
      test_exclude: tests that the BUILD file declares by itself.
      test_kwargs: for hak_variant_cc_tests.
      **kwargs: for the library.
    """
    hak_cc_library(
        name = name,
        srcs = native.glob(["*.c"]),
        hdrs = native.glob(
            [
                "*.h",
                "*.hpp",
            ],
            exclude = ["*_testing.h"],
        ),
        textual_hdrs = native.glob(["*.def"]),
        visibility = visibility,
        deps = deps,
        **kwargs
    )
    test_deps = [":" + name, str(Label("//testing"))] + test_deps
    testing_hdrs = native.glob(["*_testing.h"], allow_empty = True)
    if testing_hdrs:
        hak_cc_library(
            name = name + "_testing",
            testonly = True,
            hdrs = testing_hdrs,
            deps = test_deps,
        )
        test_deps = test_deps + [":" + name + "_testing"]
    hak_variant_cc_tests(
        srcs = native.glob(["*_test.cc"], exclude = test_exclude),
        deps = test_deps,
        **test_kwargs
    )
    hak_component_record(
        name = "component",
        component = name,
        prefixes = prefixes,
        public_hdrs = public_hdrs,
    )

def hak_component_record(name, component, prefixes, public_hdrs = []):
    """NAME and `sources` of a folder, as hak_component makes them.

    Args:
      name: `component`, for whoever reads it.
      component: the part's name.
      prefixes: as for hak_component.
      public_hdrs: as for hak_component.
    """
    _component_record(
        name = name,
        component = component,
        prefixes = prefixes,
        public_hdrs = public_hdrs,
        visibility = ["//visibility:public"],
    )
    native.filegroup(
        name = "sources",
        srcs = native.glob(["**"]),
        visibility = ["//visibility:public"],
    )

def hak_cc_binary(name, copts = [], **kwargs):
    """A C program or shared object of hakmem; arguments as for hak_cc_library and cc_binary."""
    cc_binary(
        name = name,
        copts = _COPTS + _by_variant("copts") + copts,
        **kwargs
    )

def hak_variant_cc_test(
        name,
        srcs,
        deps,
        copts = [],
        data = [],
        linkopts = [],
        malloc = None,
        variants = VARIANTS.keys(),
        tags = [],
        size = "small",
        **kwargs):
    """A GoogleTest in each variant: NAME_release, NAME_debug, ..., and NAME for all of them.

    Args:
      name: of the test suite.
      srcs: C++ (or C) sources; headers too.
      deps: what is tested; GoogleTest with its main is added.
      copts: besides those that every test has.
      data: files that the test reads, in the variant under test.
      linkopts: as for cc_test.
      malloc: as for cc_test; the malloc of libc if it is None.
      variants: in which to run.
      tags: as for cc_test. Every test also has the tag of its variant: `variant-debug` and so on.
      size: as for cc_test.
      **kwargs: for the test itself: timeout, shard_count, flaky, args, env, ...
    """
    program = name + "_program"
    cc_binary(
        name = program,
        testonly = True,
        srcs = srcs,
        copts = _TEST_COPTS + copts,
        data = data,
        linkopts = linkopts,
        linkstatic = True,
        malloc = malloc or "@bazel_tools//tools/cpp:malloc",
        tags = ["manual"] + tags,
        visibility = ["//visibility:private"],
        deps = deps + ["//third_party:gtest"],
    )
    hak_variant_test(
        name = name,
        src = program,
        variants = variants,
        tags = tags,
        size = size,
        **kwargs
    )

def hak_variant_test(name, src, variants = VARIANTS.keys(), tags = [], **kwargs):
    """Runs an executable target (with its data) as a test in each variant.

    The tests are NAME_release, ..., and NAME for all of them.

    Args:
      name: of the test suite.
      src: label of an executable: cc_binary, sh_binary. Give it the tag `manual` and the tags of
        the tests.
      variants: in which to run.
      tags: every test also has the tag of its variant.
      **kwargs: for the test itself: size, timeout, args, env, ...
    """
    for variant in variants:
        variant_test(
            name = name + "_" + variant,
            src = src,
            variant = variant,
            tags = tags + ["variant-" + variant],
            **kwargs
        )
    native.test_suite(
        name = name,
        # Not for wildcards, which reach each test by itself: through a suite they would build what
        # a tag filter leaves out.
        tags = ["manual"],
        tests = [name + "_" + variant for variant in variants],
    )

def hak_variant_cc_tests(srcs, deps, **kwargs):
    """One hak_variant_cc_test for each source file, named as the file is."""
    for src in srcs:
        hak_variant_cc_test(
            name = src[:src.rindex(".")].replace("/", "_"),
            srcs = [src],
            deps = deps,
            **kwargs
        )

def _variant_transition_impl(_settings, attr):
    return {
        _COMPILATION_MODE: VARIANTS[attr.variant].compilation_mode,
        _FLAG: attr.variant,
    }

_variant_transition = transition(
    implementation = _variant_transition_impl,
    inputs = [],
    outputs = [_FLAG, _COMPILATION_MODE],
)

def _neutral_transition_impl(_settings, _attr):
    return {
        _COMPILATION_MODE: VARIANTS[DEFAULT_VARIANT].compilation_mode,
        _FLAG: DEFAULT_VARIANT,
    }

_neutral_transition = transition(
    implementation = _neutral_transition_impl,
    inputs = [],
    outputs = [_FLAG, _COMPILATION_MODE],
)

_TRANSITION_ATTRS = {
    "_allowlist_function_transition": attr.label(
        default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
    ),
}

_VARIANT_ATTRS = dict(
    _TRANSITION_ATTRS,
    variant = attr.string(mandatory = True, values = VARIANTS.keys()),
)

def _library_impl(ctx):
    # A transition makes a list of the attribute, with one target in it.
    return [ctx.attr.dep[0][CcInfo], ctx.attr.dep[0][DefaultInfo]]

variant_library = rule(
    implementation = _library_impl,
    attrs = dict(_VARIANT_ATTRS, dep = attr.label(
        cfg = _variant_transition,
        mandatory = True,
        providers = [CcInfo],
    )),
    doc = "A cc_library in a variant.",
    provides = [CcInfo],
)

neutral_library = rule(
    implementation = _library_impl,
    attrs = dict(_TRANSITION_ATTRS, dep = attr.label(
        cfg = _neutral_transition,
        mandatory = True,
        providers = [CcInfo],
    )),
    doc = "A cc_library that does not care for variants: all of them share one.",
    provides = [CcInfo],
)

def _variant_file_impl(ctx):
    out = ctx.actions.declare_file(ctx.attr.out or ctx.label.name)
    ctx.actions.symlink(output = out, target_file = ctx.files.src[0])
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

variant_file = rule(
    implementation = _variant_file_impl,
    attrs = dict(
        _VARIANT_ATTRS,
        src = attr.label(cfg = _variant_transition, mandatory = True, allow_files = True),
        out = attr.string(doc = "the file's name in this package, the target's name by default"),
    ),
    doc = "The one file that a target makes, in a variant.",
)

def _renamed_file_impl(ctx):
    out = ctx.actions.declare_file(ctx.attr.out)
    ctx.actions.symlink(output = out, target_file = ctx.file.src)
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

renamed_file = rule(
    implementation = _renamed_file_impl,
    attrs = {
        "out": attr.string(mandatory = True),
        "src": attr.label(mandatory = True, allow_single_file = True),
    },
    doc = "A file under another name, in the variant of the build.",
)

def _variant_executable_impl(ctx):
    src = ctx.attr.src[0]
    executable = src[DefaultInfo].files_to_run.executable
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = out, target_file = executable, is_executable = True)
    runfiles = ctx.runfiles([out, executable]).merge(src[DefaultInfo].default_runfiles)
    return [
        DefaultInfo(executable = out, files = depset([out]), runfiles = runfiles),
        coverage_common.instrumented_files_info(ctx, dependency_attributes = ["src"]),
    ]

_EXECUTABLE_ATTRS = dict(
    _VARIANT_ATTRS,
    src = attr.label(cfg = _variant_transition, executable = True, mandatory = True),
)

variant_binary = rule(
    implementation = _variant_executable_impl,
    attrs = _EXECUTABLE_ATTRS,
    doc = "An executable in a variant.",
    executable = True,
)

def _variant_test_impl(ctx):
    return _variant_executable_impl(ctx) + [testing.TestEnvironment(ctx.attr.env)]

variant_test = rule(
    implementation = _variant_test_impl,
    attrs = dict(
        _EXECUTABLE_ATTRS,
        env = attr.string_dict(doc = "environment of the test"),
        # What Bazel looks for in a test when it collects coverage.
        _collect_cc_coverage = attr.label(
            cfg = "exec",
            default = "@bazel_tools//tools/test:collect_cc_coverage",
            executable = True,
        ),
        _lcov_merger = attr.label(
            cfg = "exec",
            default = "@bazel_tools//tools/test:lcov_merger",
            executable = True,
        ),
    ),
    doc = "A test that runs an executable in a variant.",
    test = True,
)

"""consumer_archives: what a program links that depends on a target, for the test that reads its
symbols."""

load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load(":variant_table.bzl", "VARIANTS")

_FLAG = str(Label("//tools/config:variant"))
_MODE = "//command_line_option:compilation_mode"
_COPT = "//command_line_option:copt"
_LINKOPT = "//command_line_option:linkopt"

def _transition_impl(settings, attr):
    lto = ["-flto=auto"] if attr.lto else []
    return {
        _FLAG: attr.variant,
        _MODE: VARIANTS[attr.variant].compilation_mode,
        _COPT: settings[_COPT] + lto,
        _LINKOPT: settings[_LINKOPT] + lto,
    }

_transition = transition(
    implementation = _transition_impl,
    inputs = [_COPT, _LINKOPT],
    outputs = [_FLAG, _MODE, _COPT, _LINKOPT],
)

_ATTRS = {
    "lto": attr.bool(doc = "with optimisation across files"),
    "variant": attr.string(mandatory = True, values = VARIANTS.keys()),
    "_allowlist_function_transition": attr.label(
        default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
    ),
}

def _archives_impl(ctx):
    files = []
    for linker_input in ctx.attr.dep[0][CcInfo].linking_context.linker_inputs.to_list():
        for library in linker_input.libraries:
            file = library.pic_static_library or library.static_library
            if file:
                files.append(file)
    return [DefaultInfo(files = depset(files), runfiles = ctx.runfiles(files))]

consumer_archives = rule(
    implementation = _archives_impl,
    attrs = dict(
        _ATTRS,
        dep = attr.label(cfg = _transition, mandatory = True, providers = [CcInfo]),
    ),
    doc = "The archives that a program links which depends on `dep`, in a variant.",
)

def _binary_impl(ctx):
    executable = ctx.attr.src[0][DefaultInfo].files_to_run.executable
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = out, target_file = executable, is_executable = True)
    return [DefaultInfo(executable = out, runfiles = ctx.runfiles([out, executable]))]

consumer_test = rule(
    implementation = _binary_impl,
    attrs = dict(_ATTRS, src = attr.label(cfg = _transition, mandatory = True, executable = True)),
    doc = "Runs a consumer's program that was built in a variant.",
    test = True,
)

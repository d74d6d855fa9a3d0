"""arrows_test: proves from Bazel's own graph which parts depend on which."""

load("@rules_shell//shell:sh_test.bzl", "sh_test")

def _query(name, source, target):
    native.genquery(
        name = name,
        testonly = True,
        expression = "somepath(%s, %s)" % (source, target),
        scope = [source, target],
        visibility = ["//visibility:private"],
    )

def arrows_test(name, arrows):
    """Tests that a path leads along each arrow, and along no other pair of parts.

    A query that a typing error has broken finds no path either; so the arrows that exist are the
    positive control.

    Args:
      name: of the test.
      arrows: label of a part -> labels of the parts that it may depend on, and does.
    """
    args = []
    data = []
    parts = arrows.keys()
    for source in parts:
        for target in parts:
            if source == target:
                continue
            kind = "path" if target in arrows[source] else "none"
            query = "%s_%s_to_%s" % (name, _word(source), _word(target))
            _query(query, source, target)
            data.append(query)
            args += [kind, source, target, "$(rootpath %s)" % query]
    sh_test(
        name = name,
        size = "small",
        srcs = ["//tools:arrows_test.sh"],
        args = args,
        data = data,
    )

def _word(label):
    return label.replace("//", "").replace(":", "_").replace(".", "_")

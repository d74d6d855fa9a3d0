"""MODULE.bazel, and what a newer Bazel asks of the other Bazel files, as far as reading can tell.

Bazel 4.2.3, which builds this repository, has no module files. So this test holds them against the
documented interface: the functions of a module file and their parameters (bazel.build, reference of
"MODULE.bazel files", versions 7.0 to 9.3), the files of rules_cc and rules_shell that define a
name, and rules that are no longer built in.
"""

import ast
import os
import re
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# {function of a module file: its parameters}
FUNCTIONS = {
    "module": {"name", "version", "compatibility_level", "repo_name", "bazel_compatibility"},
    "bazel_dep": {"name", "version", "max_compatibility_level", "repo_name", "dev_dependency"},
    "use_repo_rule": {"repo_rule_bzl_file", "repo_rule_name"},
}
# Attributes of local_repository in @bazel_tools//tools/build_defs/repo:local.bzl.
LOCAL_REPOSITORY = {"path"}
# {what may be loaded: its names}: each is there in Debian's packages, by deps.bzl, and in the
# versions that MODULE.bazel names.
LOADS = {
    "@bazel_skylib//rules:common_settings.bzl": {"string_flag"},
    "@rules_cc//cc:defs.bzl": {"cc_binary", "cc_import", "cc_library", "cc_test"},
    "@rules_cc//cc/common:cc_info.bzl": {"CcInfo"},
    "@rules_shell//shell:sh_binary.bzl": {"sh_binary"},
    "@rules_shell//shell:sh_test.bzl": {"sh_test"},
    "@hakmem//:deps.bzl": {"hakmem_deps"},
}
# Bazel brings them itself, or has no use for them any more.
NOT_MODULES = {"rules_java", "remote_coverage_tools"}
NO_LONGER_BUILT_IN = r"(?:cc|sh|py|java|objc|proto)_(?:binary|import|library|test|proto_library)"
# Repositories of what the system has installed.
OF_THE_SYSTEM = ("deps.bzl", "third_party/")


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as stream:
        return stream.read()


def bazel_files():
    """All files of this repository that Bazel reads, relative to the top."""
    found = []
    for folder, folders, names in os.walk(TOP):
        folders[:] = [name for name in folders if not name.startswith((".", "bazel-"))]
        for name in names:
            if name.endswith((".bzl", ".BUILD", "BUILD.bazel")):
                found.append(os.path.relpath(os.path.join(folder, name), TOP))
    return sorted(found)


def without_comments(text):
    return re.sub(r"(?m)#.*$", "", re.sub(r'""".*?"""', "", text, flags=re.S))


def calls(text):
    """[(function, {parameter: value})] of the calls that are statements, and [(variable, call)]."""
    statements, assigned = [], {}
    for node in ast.parse(text).body:
        call = node.value
        if isinstance(call, ast.Constant):
            continue  # the docstring
        assert isinstance(call, ast.Call), ast.dump(node)
        found = (
            call.func.id,
            {key.arg: ast.literal_eval(key.value) for key in call.keywords},
            [ast.literal_eval(argument) for argument in call.args],
        )
        if isinstance(node, ast.Assign):
            assigned[node.targets[0].id] = found
        else:
            statements.append(found)
    return statements, assigned


def repositories_of_workspace():
    """{name: {attribute: value}} of deps.bzl."""
    found = {}
    for node in ast.walk(ast.parse(read("deps.bzl"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_maybe":
            values = {}
            for key in node.keywords:
                value = key.value
                if isinstance(value, ast.Call):  # Label("...")
                    value = value.args[0]
                values[key.arg] = ast.literal_eval(value)
            found[values.pop("name")] = values
    return found


def attributes_of(rule):
    """Of a rule in third_party/repositories.bzl."""
    text = read("third_party/repositories.bzl")
    body = re.search(r"(?s)^%s = repository_rule\((.*?)^\)" % rule, text, flags=re.M).group(1)
    return set(re.findall(r'"(\w+)": attr\.', body))


class ModuleFile(unittest.TestCase):
    def setUp(self):
        self.statements, self.assigned = calls(read("MODULE.bazel"))

    def test_functions_and_parameters_are_documented(self):
        rules = {}
        for variable, (function, keywords, arguments) in self.assigned.items():
            self.assertEqual((function, keywords), ("use_repo_rule", {}))
            self.assertEqual(len(arguments), len(FUNCTIONS[function]))
            rules[variable] = arguments
        self.assertGreater(len(self.statements), 5)
        for function, keywords, arguments in self.statements:
            self.assertEqual(arguments, [], function)
            if function in rules:
                file, rule = rules[function]
                if file.startswith("@bazel_tools//"):
                    known = LOCAL_REPOSITORY
                else:
                    self.assertEqual(file, "//third_party:repositories.bzl")
                    known = attributes_of(rule)
                known = known | {"name", "dev_dependency"}
            else:
                known = FUNCTIONS[function]
            self.assertEqual(set(keywords) - known, set(), function)
            self.assertIn("name", keywords)

    def test_module_comes_first(self):
        self.assertEqual(self.statements[0][0], "module")

    def repositories(self):
        return {
            keywords["name"]: keywords
            for function, keywords, _ in self.statements
            if function != "module"
        }

    def test_has_the_repositories_of_the_workspace(self):
        """Under the same names, so that each label means the same thing in both."""
        there = repositories_of_workspace()
        self.assertGreater(len(there), 7)
        here = self.repositories()
        self.assertEqual(set(there) - NOT_MODULES - set(here), set())
        for name, values in there.items():
            if "libraries" in values:
                for key, value in values.items():
                    self.assertEqual(here[name].get(key), value, "%s of %s" % (key, name))

    def test_tests_alone_need_the_rest(self):
        for name, keywords in self.repositories().items():
            needed = name in ("bazel_skylib", "platforms", "rules_cc", "rules_shell")
            self.assertEqual(keywords.get("dev_dependency", False), not needed, name)


class BazelFiles(unittest.TestCase):
    def test_loads(self):
        modules = {"bazel_tools", "hakmem"}
        for function, keywords, _ in calls(read("MODULE.bazel"))[0]:
            modules.add(keywords["name"])
        n = 0
        for path in bazel_files():
            for file, names in re.findall(r'(?s)^load\(\s*"(@[^"]*)",(.*?)\)', read(path), re.M):
                n += 1
                self.assertIn(file[1:].split("//")[0], modules, path)
                self.assertIn(file, LOADS, path)
                self.assertEqual(set(re.findall(r'"(\w+)"', names)) - LOADS[file], set(), path)
        self.assertGreater(n, 25)

    def test_no_rule_that_is_no_longer_built_in(self):
        n = 0
        for path in bazel_files():
            text = read(path)
            loaded = set()
            for names in re.findall(r"(?s)^load\((.*?)\)", text, re.M):
                loaded |= set(re.findall(r'"(\w+)"', names))
            body = without_comments(re.sub(r"(?ms)^load\(.*?\)$", "", text))
            if path == "third_party/repositories.bzl":
                continue  # it is what has them for Bazel 4.2.3
            self.assertNotRegex(body, r"native\.%s" % NO_LONGER_BUILT_IN, path)
            used = set(re.findall(r"(?<![\w.])(%s)(?=[(,])" % NO_LONGER_BUILT_IN, body))
            if re.search(r"(?<!\w)CcInfo\b", body):
                used.add("CcInfo")
            n += len(used)
            self.assertEqual(used - loaded, set(), path)
        self.assertGreater(n, 25)

    def test_paths_of_the_system(self):
        """No absolute path outside of what makes repositories of the system's files."""
        for path in bazel_files():
            if not path.startswith(OF_THE_SYSTEM):
                text = without_comments(read(path))
                found = re.findall(r"[\"' =](/(?:usr|opt|etc|bin|lib|home)/\S*)", text)
                self.assertEqual(found, [], path)

    def test_the_test_itself(self):
        statements, assigned = calls('"""doc"""\nx = use_repo_rule("a", "b")\nx(name = "n")\n')
        self.assertEqual(statements, [("x", {"name": "n"}, [])])
        self.assertEqual(assigned, {"x": ("use_repo_rule", {}, ["a", "b"])})
        self.assertRegex("native.sh_test(", r"native\.%s" % NO_LONGER_BUILT_IN)
        self.assertNotRegex("hak_cc_library(", r"(?<![\w.])%s\(" % NO_LONGER_BUILT_IN)


if __name__ == "__main__":
    unittest.main()

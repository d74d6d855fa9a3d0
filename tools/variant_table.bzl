"""The variants. One row a variant; the flag, the copts, the transition and the tests come
from here."""

DEFAULT_VARIANT = "release"

# compilation_mode: Bazel's, set when several variants are built side by side. defines: seen by
# everything that depends on hakmem, because its headers have inline code. copts: for hakmem's own
# sources. They come after the toolchain's, so that they hold in every compilation mode.
VARIANTS = {
    "release": struct(
        compilation_mode = "opt",
        defines = ["HAKMEM_BUILD_RELEASE=1"],
        copts = ["-O2", "-DNDEBUG", "-fomit-frame-pointer"],
    ),
    "release_validated": struct(
        compilation_mode = "opt",
        defines = ["HAKMEM_BUILD_RELEASE=1", "HAKMEM_VALIDATE=1"],
        copts = ["-O2", "-fomit-frame-pointer"],
    ),
    "secure": struct(
        compilation_mode = "opt",
        defines = ["HAKMEM_BUILD_RELEASE=1", "HAKMEM_SECURE=1"],
        copts = ["-O2", "-DNDEBUG", "-fomit-frame-pointer"],
    ),
    "debug": struct(
        compilation_mode = "dbg",
        defines = ["HAKMEM_DEBUG=1", "HAKMEM_VALIDATE=1"],
        copts = ["-O1", "-g"],
    ),
    "tiny": struct(
        compilation_mode = "dbg",
        defines = ["HAKMEM_TINY=1", "HAKMEM_DEBUG=1", "HAKMEM_VALIDATE=1"],
        copts = ["-O1", "-g"],
    ),
}

/* The text of verify.def. Called by tests, stress and fuzzing. */
#include "base/verify.h"

const char *hak_verify_text(int code)
{
    switch (code) {
    case VERIFY_SOUND:
        return "sound";
#define VERIFY(name, code, part, equation)                                                         \
    case VERIFY_##name:                                                                            \
        return part " " #code ": " equation;
#include "base/verify.def"
#undef VERIFY
    }
    return "no code of a verifier";
}

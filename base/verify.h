/* What the verifiers return: 0, or the code of the first equation that did not hold; see
   verify.def. No state. */
#ifndef HAKMEM_BASE_VERIFY_H
#define HAKMEM_BASE_VERIFY_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

enum verify_code {
    VERIFY_SOUND = 0,
#define VERIFY(name, code, part, equation) VERIFY_##name = (code),
#include "base/verify.def"
#undef VERIFY
};

/* "pool 14: EQUATION", the equation that did not hold; "sound" for 0. */
const char *hak_verify_text(int code);

HAK_EXTERN_C_END

#endif

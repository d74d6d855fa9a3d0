/* libFuzzer's entry; built by hour.sh. */
#include "checks/fuzz/api_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)hak_fuzz::run_api(data, size);
    return 0;
}

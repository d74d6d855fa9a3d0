/* The public interface, driven by bytes: one input is a sequence of operations. Called by libFuzzer
   (libfuzzer.cc) and by a plain driver (corpus_main.cc). One input at a time. */
#ifndef HAKMEM_CHECKS_FUZZ_API_FUZZ_H
#define HAKMEM_CHECKS_FUZZ_API_FUZZ_H

#include <cstddef>
#include <cstdint>

namespace hak_fuzz
{

/* Runs the operations; aborts, after one line on standard error, where hakmem breaks a promise. At
   the end all blocks are freed and nothing may be left. Returns how many operations ran. */
size_t run_api(const uint8_t *data, size_t size);

} // namespace hak_fuzz

#endif

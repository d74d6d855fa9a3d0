/* The key of links. Called at the start of the process, and by whoever finds a broken link. */
#include "base/link.h"

#include <string.h>
#include <sys/auxv.h>

int64_t hak_link_key = LINK_KEY_LEAST;
const _Alignas(16) uint64_t hak_link_end[2] = {0, 0};

/* The kernel's 16 random bytes; the C library uses them too, so that no word of them is shown. */
uint32_t hak_link_are_zeroed;

static uint64_t secret;

uint64_t hak_link_secret(void)
{
    return secret;
}

void hak_link_start(void)
{
    const void *random = (const void *)(uintptr_t)getauxval(AT_RANDOM);
    uint64_t word[2] = {0, 0};
    if (random) {
        memcpy(word, random, sizeof word);
    }
    uint64_t mixed = (word[0] ^ (word[1] >> 7)) * 0x9E3779B97F4A7C15u;
    mixed ^= (uint64_t)(uintptr_t)&word * 0xBF58476D1CE4E5B9u;
    secret = (mixed ^ word[1]) * 0x94D049BB133111EBu;
    secret ^= secret >> 29;
    hak_link_key = LINK_KEY_LEAST + ((int64_t)(mixed >> 13) & LINK_KEY_MASK);
}

void hak_link_broken(const void *block)
{
    hak_fatal("freed block written to (its link to the next free block is broken)", block);
}

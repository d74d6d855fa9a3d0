// path_trace: single-steps the fast paths of malloc and free, and prints the address of every
// instruction that ran.
//
// One line a path: its name, then offsets from the start of the object that serves malloc, in
// hexadecimal, in the order of execution, from the function's first instruction to its return.
// golden_test.py reads this and looks the instructions up in the object's disassembly. So the test
// pins what the processor did, not what the source suggests: if the processor took a slow path, the
// test shows it.
//
// The trap flag makes the processor raise SIGTRAP after each instruction; the handler notes its
// address. No tracer, no privilege, no other process. One thread, no locks. x86-64 only.
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { MAX_STEPS = 4096, WARM_UP = 200, BLOCKS = 8, UNTRACED = 4, TRACES = 4 };

static volatile uintptr_t steps[MAX_STEPS];
static volatile int n_steps;

// Uses of the functions that are looked up below: without them, a linker with --as-needed leaves
// their library out.
void *(*volatile uses_malloc)(size_t) = malloc;
void (*volatile uses_free)(void *) = free;

static void on_step(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    const ucontext_t *at = context;
    if (n_steps < MAX_STEPS)
        steps[n_steps++] = (uintptr_t)at->uc_mcontext.gregs[REG_RIP];
}

// Calls function(argument) with the trap flag set for just that call (and the few instructions
// around it).
static uintptr_t call_traced(uintptr_t function, uintptr_t argument)
{
    uintptr_t result;
    n_steps = 0;
    __asm__ volatile("mov %%rsp, %%rbx\n\t"
                     "sub $256, %%rsp\n\t" // past the red zone
                     "and $-16, %%rsp\n\t"
                     "pushfq\n\t"
                     "orl $0x100, (%%rsp)\n\t"
                     "popfq\n\t"
                     "call *%[function]\n\t"
                     "pushfq\n\t"
                     "andl $~0x100, (%%rsp)\n\t"
                     "popfq\n\t"
                     "mov %%rbx, %%rsp\n\t"
                     : "=a"(result), "+D"(argument)
                     : [function] "r"(function)
                     : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2",
                       "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
    return result;
}

// Cuts the steps down to function's own, the return included: steps outside of it (the call, the
// restoring of the flags) lie in this program, whose base is `ours`.
static int first_own_step(uintptr_t function, int *end)
{
    int first = 0;
    while (first < n_steps && steps[first] != function)
        first++;
    Dl_info here, step;
    dladdr((void *)(uintptr_t)&on_step, &here);
    for (*end = first; *end < n_steps; (*end)++)
        if (dladdr((void *)steps[*end], &step) != 0 && step.dli_fbase == here.dli_fbase)
            break;
    return first;
}

static void print_path(const char *name, const char *kind, uintptr_t function, uintptr_t base)
{
    int end, first = first_own_step(function, &end);
    printf("%s_%s", name, kind);
    for (int i = first; i < end; i++)
        printf(" %lx", (unsigned long)(steps[i] - base));
    printf("\n");
}

// Traces malloc(size) and the free of that block, several times, so that the test sees whether it
// is always the same. Before that the same pair runs untraced: if it began at a bin's edge (empty,
// or full), it no longer does.
static void trace(const char *name, size_t size, uintptr_t malloc_at, uintptr_t free_at,
                  uintptr_t base)
{
    void *volatile blocks[BLOCKS];
    for (int round = 0; round < WARM_UP; round++) {
        for (int i = 0; i < BLOCKS; i++)
            blocks[i] = ((void *(*)(size_t))malloc_at)(size);
        for (int i = 0; i < BLOCKS; i++)
            ((void (*)(void *))free_at)(blocks[i]);
    }
    for (int i = 0; i < UNTRACED; i++)
        ((void (*)(void *))free_at)(((void *(*)(size_t))malloc_at)(size));
    for (int i = 0; i < TRACES; i++) {
        uintptr_t block = call_traced(malloc_at, size);
        print_path(name, "malloc", malloc_at, base);
        call_traced(free_at, block);
        print_path(name, "free", free_at, base);
    }
}

// The same beyond the window that the fast paths see at first: the program maps 100 GiB itself, and
// takes blocks until they lie behind it.
static void trace_beyond(uintptr_t malloc_at, uintptr_t free_at, uintptr_t base)
{
    const size_t gib = (size_t)1 << 30, size = 512;
    uintptr_t first = ((uintptr_t(*)(size_t))malloc_at)(size), block, distance = 0;
    if (mmap(NULL, 100 * gib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
        MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    for (size_t taken = 0; distance < 64 * gib && taken < gib / 4; taken += size) {
        block = ((uintptr_t(*)(size_t))malloc_at)(size);
        distance = block < first ? first - block : block - first;
    }
    if (distance < 64 * gib) {
        fprintf(stderr, "no block lies beyond what the program mapped\n");
        exit(1);
    }
    trace("beyond", size, malloc_at, free_at, base);
}

// free(NULL), which programs call often: it leaves by the slow path's first instructions.
static void trace_null(uintptr_t free_at, uintptr_t base)
{
    for (int i = 0; i < TRACES; i++) {
        call_traced(free_at, 0);
        print_path("null", "free", free_at, base);
    }
}

int main(void)
{
    static char buffer[1 << 16]; // so that printf does not allocate in between
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    Dl_info object;
    uintptr_t malloc_at = (uintptr_t)dlsym(RTLD_DEFAULT, "malloc");
    uintptr_t free_at = (uintptr_t)dlsym(RTLD_DEFAULT, "free");

    setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
    if (sigaction(SIGTRAP, &action, NULL) != 0 || dladdr((void *)malloc_at, &object) == 0) {
        perror("path_trace");
        return 1;
    }
    printf("object %s\n", object.dli_fname);
    uintptr_t base = (uintptr_t)object.dli_fbase;
    trace("tiny", 64, malloc_at, free_at, base);
    trace("tiny_odd", 777, malloc_at, free_at, base);
    trace("mid", 4096, malloc_at, free_at, base);
    trace("mid_odd", 7777, malloc_at, free_at, base);
    trace_null(free_at, base);
    trace_beyond(malloc_at, free_at, base);
    return 0;
}

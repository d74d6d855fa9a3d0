// wl_factor [NUMBERS [BITS [SEED]]]: factors products of two primes with big numbers, each result a
// block of its own.
//
// A number is a block with its length and its 32-bit limbs. Each of NUMBERS products of a prime of
// about BITS bits and one of about 40 is split by Pollard's rho method (a step is one
// multiplication, one addition, one remainder), written as a program with a big-number library
// would do it: every intermediate result is allocated, and freed after its last use. An operation
// is one malloc or one free.
//
// Stresses: very small blocks that live for a moment, in one thread, with real arithmetic between
// them. The idea is the factoring program cfrac of the older allocator suites. No threads.
#include "bench/workloads/workload.h"

enum { LARGE_BITS = 62, STEPS_A_GCD = 128 };

struct number {
    uint32_t length; // limbs in use; the highest is not 0
    uint32_t limbs[];
};

static uint64_t n_blocks;

static struct number *number_new(uint32_t length)
{
    n_blocks++;
    struct number *x = wl_malloc(sizeof(struct number) + length * sizeof(uint32_t));
    x->length = length;
    return x;
}

static struct number *trim(struct number *x)
{
    while (x->length > 0 && x->limbs[x->length - 1] == 0)
        x->length--;
    return x;
}

static struct number *from_u64(uint64_t value)
{
    struct number *x = number_new(2);
    x->limbs[0] = (uint32_t)value;
    x->limbs[1] = (uint32_t)(value >> 32);
    return trim(x);
}

static struct number *multiply(const struct number *a, const struct number *b)
{
    struct number *x = number_new(a->length + b->length);
    memset(x->limbs, 0, x->length * sizeof(uint32_t));
    for (uint32_t i = 0; i < a->length; i++) {
        uint64_t carry = 0;
        for (uint32_t j = 0; j < b->length; j++) {
            carry += (uint64_t)a->limbs[i] * b->limbs[j] + x->limbs[i + j];
            x->limbs[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        x->limbs[i + b->length] = (uint32_t)carry;
    }
    return trim(x);
}

static struct number *add(const struct number *a, const struct number *b)
{
    uint32_t length = (a->length > b->length ? a->length : b->length) + 1;
    struct number *x = number_new(length);
    uint64_t carry = 0;
    for (uint32_t i = 0; i < length; i++) {
        carry += (i < a->length ? a->limbs[i] : 0) + (uint64_t)(i < b->length ? b->limbs[i] : 0);
        x->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    return trim(x);
}

static int compare(const struct number *a, const struct number *b)
{
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    for (uint32_t i = a->length; i > 0; i--)
        if (a->limbs[i - 1] != b->limbs[i - 1])
            return a->limbs[i - 1] < b->limbs[i - 1] ? -1 : 1;
    return 0;
}

// a - b; a is not below b.
static struct number *subtract(const struct number *a, const struct number *b)
{
    struct number *x = number_new(a->length);
    int64_t borrow = 0;
    for (uint32_t i = 0; i < a->length; i++) {
        borrow += (int64_t)a->limbs[i] - (i < b->length ? b->limbs[i] : 0);
        x->limbs[i] = (uint32_t)borrow;
        borrow >>= 32;
    }
    return trim(x);
}

// r -= times * n, in the n->length + 1 limbs of r; the difference is not negative.
static void subtract_times(uint32_t *r, const struct number *n, uint64_t times)
{
    int64_t borrow = 0;
    uint64_t carry = 0;
    for (uint32_t i = 0; i <= n->length; i++) {
        carry += i < n->length ? times * n->limbs[i] : 0;
        borrow += (int64_t)r[i] - (uint32_t)carry;
        r[i] = (uint32_t)borrow;
        borrow >>= 32;
        carry >>= 32;
    }
}

// How often n goes at least into the n->length + 1 limbs of r: too few at times, never too many; 0
// when r is below n.
static uint64_t times_at_least(struct number *r, const struct number *n)
{
    uint64_t top = (uint64_t)r->limbs[n->length] << 32 | r->limbs[n->length - 1];
    uint64_t times = top / ((uint64_t)n->limbs[n->length - 1] + 1);
    if (times > UINT32_MAX)
        return UINT32_MAX;
    r->length = n->length + 1;
    return times == 0 && compare(trim(r), n) >= 0 ? 1 : times;
}

// The remainder of a by n, limb by limb from the top.
static struct number *modulo(const struct number *a, const struct number *n)
{
    struct number *r = number_new(n->length + 1);
    memset(r->limbs, 0, ((size_t)n->length + 1) * sizeof(uint32_t));
    for (uint32_t i = a->length; i > 0; i--) {
        memmove(r->limbs + 1, r->limbs, n->length * sizeof(uint32_t));
        r->limbs[0] = a->limbs[i - 1];
        for (uint64_t times = times_at_least(r, n); times > 0; times = times_at_least(r, n))
            subtract_times(r->limbs, n, times);
    }
    r->length = n->length;
    return trim(r);
}

// The greatest common divisor of a and b; b is not 0.
static struct number *gcd(const struct number *a, const struct number *b)
{
    struct number *x = modulo(b, b), *y = add(b, x);
    free(x);
    x = modulo(a, b);
    while (x->length > 0) {
        struct number *rest = modulo(y, x);
        free(y);
        y = x;
        x = rest;
    }
    free(x);
    return y;
}

// x * x + c modulo n; x is freed.
static struct number *step(struct number *x, const struct number *c, const struct number *n)
{
    struct number *square = multiply(x, x), *sum = add(square, c), *rest = modulo(sum, n);
    free(x);
    free(square);
    free(sum);
    return rest;
}

static struct number *distance(const struct number *a, const struct number *b)
{
    return compare(a, b) >= 0 ? subtract(a, b) : subtract(b, a);
}

// A divisor of n by the sequence x * x + c, from STEPS_A_GCD steps a common divisor; n itself when
// this c fails.
static struct number *rho(const struct number *n, uint64_t constant)
{
    struct number *c = from_u64(constant), *slow = from_u64(2), *fast = from_u64(2),
                  *one = from_u64(1), *divisor;
    do {
        struct number *product = from_u64(1);
        for (int i = 0; i < STEPS_A_GCD; i++) {
            slow = step(slow, c, n);
            fast = step(step(fast, c, n), c, n);
            struct number *difference = distance(slow, fast),
                          *longer = multiply(product, difference);
            free(product);
            free(difference);
            product = modulo(longer, n);
            free(longer);
        }
        divisor = gcd(product, n);
        free(product);
        if (compare(divisor, one) != 0)
            break;
        free(divisor);
    } while (1);
    free(c);
    free(slow);
    free(fast);
    free(one);
    return divisor;
}

static uint64_t power_modulo(uint64_t base, uint64_t exponent, uint64_t n)
{
    unsigned __int128 result = 1, square = base % n;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1)
            result = result * square % n;
        square = square * square % n;
    }
    return (uint64_t)result;
}

// The next number from `from` on that passes Fermat's test for 2, 3 and 5: as good as a prime for
// this.
static uint64_t next_prime(uint64_t from)
{
    from |= 1;
    while (power_modulo(2, from - 1, from) != 1 || power_modulo(3, from - 1, from) != 1 ||
           power_modulo(5, from - 1, from) != 1)
        from += 2;
    return from;
}

// The low 64 bits of the factor found, which stand for it in the checksum.
static uint64_t factor(uint64_t small, uint64_t large)
{
    struct number *a = from_u64(small), *b = from_u64(large), *n = multiply(a, b),
                  *divisor = rho(n, 1);
    for (uint64_t constant = 3; compare(divisor, n) == 0; constant += 2) {
        free(divisor);
        divisor = rho(n, constant);
    }
    struct number *rest = modulo(n, divisor);
    if (rest->length != 0) {
        fprintf(stderr, "bench: no divisor of %llu * %llu\n", (unsigned long long)small,
                (unsigned long long)large);
        exit(1);
    }
    uint64_t low = divisor->limbs[0] | (uint64_t)(divisor->length > 1 ? divisor->limbs[1] : 0)
                                           << 32;
    free(a);
    free(b);
    free(n);
    free(divisor);
    free(rest);
    return low;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"NUMBERS", 1, 1 << 20, 4, 0},
        {"BITS", 16, 48, 34, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 3);
    uint64_t start = bench_now_ns(), random = bench_seed(args[2].value), sum = 0;
    for (uint64_t i = 0; i < args[0].value; i++) {
        random = bench_next(random);
        uint64_t bit = UINT64_C(1) << (args[1].value - 1), large_bit = UINT64_C(1)
                                                                       << (LARGE_BITS - 1);
        sum += factor(next_prime(bit | random % bit),
                      next_prime(large_bit | bench_seed(random) % large_bit));
    }
    wl_finish(2 * n_blocks, args[0].value, args[1].value, start, sum);
    return 0;
}

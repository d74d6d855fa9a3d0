"""The rows: what is measured, by which program, at which sizes.

Sizes grow by 10; the largest is bounded by the memory that may be used."""

import dataclasses

MAX_BYTES = 8 << 30
STEPS = 4  # sizes of a row: the largest, a tenth of it, and so on
RUN_S = 20  # a program ends its loops after so long, and says how far it came
# What a second thread adds is measured by a run of its own: a background thread takes over what the
# first would pay for.
ALONE, BESIDE = 0, 1


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    text: str
    program: str
    # {size}, {others}: ALONE or BESIDE, {pause}: ms until freed memory is due, {seconds}: RUN_S
    args: str
    unit: str = "bytes"
    most: int = MAX_BYTES  # the largest size
    cost: float = (
        1.0  # address space or memory that a unit takes: the largest size follows --max-bytes
    )
    resident: float = 0.0  # bytes resident for a unit: what has to be free
    others: tuple = (ALONE, BESIDE)
    only: str = ""  # an allocator that alone can do this
    pause_ms: int = 1200

    def sizes(self, max_bytes):
        """Ascending, each at least 1 and the tenth part of the next."""
        top = max(1, min(self.most, int(max_bytes / self.cost)))
        return sorted({max(1, top // 10**i) for i in range(STEPS)})

    def allocators(self, chosen):
        return [name for name in chosen if not self.only or name == self.only]

    def arguments(self, size, others, pause_ms=None, seconds=RUN_S):
        pause = self.pause_ms if pause_ms is None else pause_ms
        return self.args.format(size=size, others=others, pause=pause, seconds=seconds).split()


def backlog(name, what, block):
    return Row(
        name,
        f"much freed memory falls due at once: {what}",
        "worst_backlog",
        f"{{size}} {block} {{others}} {{pause}} {{seconds}}",
        resident=1.05,
    )


# fmt: off
ALL = [
    backlog("backlog_slabs", "blocks of 4 KiB", 4096),
    backlog("backlog_spans", "blocks of 128,000 bytes", 128000),
    backlog("backlog_ranges", "blocks of 4 MiB", 4 << 20),
    Row("refused_mlock", "freed pages that are locked in memory, as many as RLIMIT_MEMLOCK allows",
        "worst_refused", "{size} 0 {others} {pause} {seconds}",
        resident=0.02),
    Row("refused_madvise", "every madvise that gives pages back fails with EINVAL",
        "worst_refused", "{size} 1 {others} {pause} {seconds}",
        resident=0.02),
    Row("map_count", "blocks of 1,200,000 bytes, every other one freed, near vm.max_map_count",
        "worst_maps", "{size} {others} {seconds}",
        unit="blocks", most=160000, cost=53687, resident=8192, others=(BESIDE,)),
    Row("limit_as", "buffers of 8 MiB that realloc shrinks to 140,000 bytes, under RLIMIT_AS",
        "worst_limit", "{size} {others} {seconds}",
        unit="blocks", most=5000, cost=160000, resident=150000, others=(BESIDE,)),
    Row("aligned_holes", "aligned_alloc(16384, 40000) over holes that do not fit",
        "worst_aligned", "{size} {others} {seconds}",
        resident=0.11, others=(BESIDE,)),
    Row("own_heaps", "first-class heaps of one block, with so many bytes elsewhere",
        "worst_heaps", "{size} {others} {seconds}",
        resident=0.01, others=(BESIDE,), only="hakmem"),
    Row("one_exbibyte", "a request of 1 EiB with many heaps and something dirty",
        "worst_huge", "{size} {others} {seconds}",
        unit="heaps", most=8000, cost=131072, resident=100000, others=(BESIDE,)),
    Row("fork_caches", "fork, and the child's end, with full caches of many threads",
        "worst_fork", "{size} {others} {seconds}",
        unit="threads", most=1000, cost=2 << 20, resident=2 << 20),
    Row("cached_ranges", "blocks of 1.2 to 4.2 MB freed in random order",
        "worst_ranges", "{size} {others} {seconds}",
        unit="ranges", most=10000, cost=400000, resident=8192, others=(BESIDE,)),
    Row("creep", "two blocks of 1 MiB made, freed and trimmed, again and again",
        "worst_creep", "{size} 2 {others} {seconds}",
        unit="cycles", most=100000, cost=1, others=(ALONE,)),
    Row("creep_wide", "512 blocks of 1 MiB made, freed and trimmed, again and again",
        "worst_creep", "{size} 512 {others} {seconds}",
        unit="cycles", most=1000, cost=1, others=(ALONE,)),
    Row("mapped_first",
        "small calls after the program has mapped GiB itself, over the time without",
        "worst_window", "{size} {seconds}",
        unit="GiB", most=1000, cost=1, resident=1, others=(ALONE,)),
    Row("idle_one", "blocks freed by the only thread, which then sleeps",
        "worst_idle", "{size} 1 {pause} {seconds}",
        resident=1.05, others=(ALONE,), pause_ms=3000, most=512 << 20, cost=16),
    Row("idle_two", "the same with a second thread that does nothing",
        "worst_idle", "{size} 2 {pause} {seconds}",
        resident=1.05, others=(ALONE,), pause_ms=3000, most=512 << 20, cost=16),
    Row("trim_partial", "malloc_trim with one block of 63 in use, then blocks of another size",
        "worst_trim", "{size} {others} {seconds}",
        resident=2, most=MAX_BYTES // 4, cost=4),
    Row("fiftieth", "300 slots of 1 to 4 MB, a fiftieth of each block written, replaced at random",
        "worst_slots", "{size} {others} {seconds}",
        unit="replacements", most=60000, cost=1, resident=10000, others=(ALONE,)),
]

# Null work, so many milliseconds long: the longest pause is the machine's own.
CONTROL = Row("control", "null work: the machine's own longest pause",
              "worst_control", "{size} {others} {seconds}",
              unit="ms", most=3000, cost=1)
# fmt: on

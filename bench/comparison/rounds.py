"""The rounds: in each, every workload runs once under every allocator, in an order drawn at random,
so that other work of the machine affects all alike. A workload's runs in one round share a seed and
lie close in time: they make the pairs.

Rounds come before breadth: the core workloads have a part of the time to themselves, at least until
there are as many rounds as a verdict needs. In the time that is left the others are measured one by
one, each with all its rounds or not at all. How many rounds there are depends on the time alone,
never on what was measured: a stop at a result that one likes would make intervals wrong."""

import sys
import time

FIRST_SEED = 42
# So many are worth passing the budget for: with three, the fewest that give a verdict, its interval
# is nearly three times as wide.
ENOUGH_ROUNDS = 5
CORE_PART = 0.55  # of the time; the rest is the others'


class Progress:
    """One line on standard error, rewritten in place on a terminal, else repeated at most every ten
    seconds."""

    def __init__(self, stream=None):
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.last = None

    def show(self, text):
        now = time.monotonic()
        if self.terminal:
            self.stream.write("\r\x1b[K" + text)
        elif self.last is None or now - self.last >= 10:
            self.stream.write(text + "\n")
            self.last = now
        self.stream.flush()

    def end(self):
        if self.terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


class OutOfTime(Exception):
    """The budget is used up in the middle of a round."""


class Plan:
    """Which runs there are, how many rounds, and how long the rest takes: from what was done so
    far."""

    def __init__(self, config, clock):
        self.config = config
        self.clock = clock
        self.begin = clock()
        self.modes = {workload.name: config.mode for workload in config.workloads}
        self.seconds = {}  # of the last run of (workload, allocator, mode)
        self.rounds = config.runs
        self.least_rounds = config.min_runs
        self.done_rounds = 0
        self.pairs = config.core_pairs()
        self.left_of_round = 0.0

    def deadline(self):
        return None if self.config.budget_s is None else self.begin + self.config.budget_s

    def is_over(self):
        """Whether a round is cut off now. Without the rounds that a verdict needs the budget may be
        passed, up to the limit."""
        return bool(self.deadline() and self.done_rounds and self.clock() > self.last_end())

    def last_end(self):
        limit_s = self.config.limit_s if self.done_rounds < ENOUGH_ROUNDS else 0
        return max(self.deadline(), self.begin + limit_s)

    def core_end(self):
        """When the core makes room for the others, if it has its rounds by then."""
        if self.deadline() is None or not self.config.breadth:
            return self.deadline()
        return self.begin + self.config.budget_s * CORE_PART

    def run_s(self, workload, allocator):
        """How long a run will take: as long as the last one; before the first, an estimate from its
        quick run and the amounts of work."""
        mode = self.modes[workload.name]
        known = self.seconds.get((workload.name, allocator, mode))
        return (
            known
            if known is not None
            else self.seconds.get((workload.name, allocator, "quick"), 0.0) * workload.growth(mode)
        )

    def round_s(self):
        return sum(self.run_s(workload, allocator) for workload, allocator in self.pairs)

    def shorten(self, n_rounds):
        """Where so many rounds would pass the core's time, the longest workloads get their quick
        arguments."""
        if self.deadline() is None:
            return False
        changed = False
        while self.round_s() * n_rounds > self.core_end() - self.clock():
            costs = {}
            for workload, allocator in self.pairs:
                if self.modes[workload.name] != "quick":
                    costs[workload.name] = costs.get(workload.name, 0.0) + self.run_s(
                        workload, allocator
                    )
            if not costs:
                break
            self.modes[max(costs, key=costs.get)] = "quick"
            changed = True
        return changed

    def enough(self):
        """Called before each round: whether there are enough rounds."""
        left = self.config.runs - self.done_rounds
        if self.deadline() is not None and self.done_rounds > 0:
            fit = max(int((self.core_end() - self.clock()) / max(self.round_s(), 1e-9)), 0)
            # Too few rounds are no result: until there are enough, only the deadline itself ends
            # the measurement, and with very few the limit.
            left = min(left, max(fit, self.least_rounds - self.done_rounds))
        self.rounds = self.done_rounds + max(left, 0)
        return left <= 0

    def text(self, workload, allocator):
        if self.done_rounds == 0 and not self.left_of_round:
            return f"warming up: {workload.name} under {allocator}"
        rest = max(self.rounds - self.done_rounds - 1, 0) * self.round_s() + self.left_of_round
        if self.deadline() is not None:
            end = self.core_end() if self.core_end() > self.clock() else self.last_end()
            rest = min(rest, end - self.clock())
        return (
            f"round {self.done_rounds + 1} of {self.rounds}, about {max(rest, 0):.0f} s left: "
            f"{workload.name} under {allocator}"
        )


def one_round(config, plan, seed, progress, run, warming=False):
    """Runs everything once, in random order: {(workload's name, allocator): the run's result}.
    Raises OutOfTime."""
    results = {}
    plan.left_of_round = 0.0 if warming else plan.round_s()
    for workload in config.rng.sample(config.core, len(config.core)):
        mode = "quick" if warming else plan.modes[workload.name]
        allocators = [allocator for one, allocator in config.pairs if one is workload]
        for allocator in config.rng.sample(allocators, len(allocators)):
            if plan.is_over():
                raise OutOfTime
            progress.show(plan.text(workload, allocator))
            start = plan.clock()
            result = run(config.place, workload, allocator, mode, seed)
            took = plan.clock() - start
            plan.seconds[workload.name, allocator, mode] = took
            plan.left_of_round = max(plan.left_of_round - took, 1e-3) if not warming else 0.0
            results[workload.name, allocator] = {**result, "mode": mode}
    return results


def block(plan, workload, n_rounds, mode, progress, run, about, share=None):
    """Rounds of one workload: {allocator: results}; None when the deadline cut them off. share: of
    the time in seconds; when the first round shows that the others would take more, there are
    fewer."""
    config, found, done = plan.config, {}, 0
    pairs = [pair for pair in config.pairs if pair[0] is workload]
    while done < n_rounds:
        for one, allocator in config.rng.sample(pairs, len(pairs)):
            if plan.deadline() is not None and plan.clock() > plan.deadline():
                return None
            progress.show(f"{about}: round {done + 1} of {n_rounds} under {allocator}")
            start = plan.clock()
            result = run(config.place, one, allocator, mode, FIRST_SEED + done)
            plan.seconds[one.name, allocator, mode] = plan.clock() - start
            found.setdefault(allocator, []).append({**result, "mode": mode})
        done += 1
        if done == 1 and share is not None:
            round_s = max(sum(plan.run_s(*pair) for pair in pairs), 1e-9)
            n_rounds = min(n_rounds, max(int(share / round_s), config.min_runs))
    return found


def measure_breadth(plan, progress, run):
    """The workloads that are not of the core, while time is left, in an order drawn at random so
    that none is always the last: results as of measure."""
    config, results = plan.config, {}
    todo = config.rng.sample(config.breadth, len(config.breadth))
    for done, workload in enumerate(todo):
        left = plan.deadline() - plan.clock()
        about = f"{done + 1} of {len(todo)} other workloads, at most {max(left, 0):.0f} s left: "
        about += workload.name
        if block(plan, workload, 1, "quick", progress, run, about) is None:
            break  # the warm-up, which is thrown away
        left = plan.deadline() - plan.clock()
        pairs = [pair for pair in config.pairs if pair[0] is workload]
        share = left / (len(todo) - done)
        for mode in (config.mode, "quick"):
            plan.modes[workload.name] = mode
            round_s = max(sum(plan.run_s(*pair) for pair in pairs), 1e-9)
            if config.min_runs * round_s <= share:
                break
        n_rounds = min(max(int(share / round_s), config.min_runs), config.runs)
        if n_rounds * round_s > left:
            continue  # a shorter one may still fit
        found = block(plan, workload, n_rounds, mode, progress, run, about, share)
        if found is None:
            break
        results.update({(workload.name, name): runs for name, runs in found.items()})
    return results


def measure(config, progress, run, clock=time.monotonic, before_breadth=None):
    """All rounds: {(workload's name, allocator): [a run's result for every round]}.
    before_breadth gets those of the core, before the others are begun."""
    plan = Plan(config, clock)
    results = measure_core(plan, progress, run)
    if config.breadth and plan.deadline() is not None:
        if before_breadth:
            progress.end()
            before_breadth(results)
        results.update(measure_breadth(plan, progress, run))
    progress.end()
    return results


def measure_core(plan, progress, run):
    config = plan.config
    one_round(config, plan, FIRST_SEED, progress, run, warming=True)
    plan.shorten(n_rounds=2)  # an estimate: more is only known after a round
    results = {}
    seed = FIRST_SEED
    while not plan.enough():
        try:
            found = one_round(config, plan, seed, progress, run)
        except OutOfTime:
            break
        plan.done_rounds += 1
        seed += 1
        for key, result in found.items():
            results.setdefault(key, []).append(result)
        if plan.done_rounds == 1 and plan.shorten(config.min_runs):
            # After this round the cost of the real arguments is known; workloads that are shortened
            # now begin again, a round late.
            plan.least_rounds += 1
            for key, runs in results.items():
                if runs[0]["mode"] != plan.modes[key[0]]:
                    runs.clear()
    return {key: runs for key, runs in results.items() if runs}

"""Many slots in simulated time: how busy a driver keeps them, and how many it can.

Workers take log-normal times, some of them many times as long as others. A batch is opened once all batches up to
``lag`` before it are complete, as ``evolution.core`` has it; an outcome waits until the driver is free, which takes a
time of its own for each.
"""

from __future__ import annotations

import heapq
from collections import deque

from evomerge import seeds

SIGMA = 1.0  # of the logarithm of a job's time: one in forty takes seven times the median
ROUNDS = 300  # jobs that each slot does, about


def busy(
    slots: int,
    population: int,
    lag: int,
    cost: float,
    *,
    sigma: float = SIGMA,
    rounds: int = ROUNDS,
) -> float:
    """The part of the slots' time that is worked, from the first batch to the last.

    Args:
        slots: workers at a time.
        population, lag: of the search.
        cost: of the driver for each evaluation, where a job takes 1 in the median.
        sigma: of the logarithm of a job's time.
        rounds: jobs that each slot does, about.
    """
    batches = rounds * slots // population + lag
    draw = seeds.generator("latency", slots, population, lag)
    times = draw.lognormal(0.0, sigma, batches * population).tolist()
    awaited = [population] * batches
    opened = complete = 0  # batches; those that are complete in a row
    queue, running = deque[int](), list[tuple[float, int]]()
    free = began = ended = 0.0  # the driver has time; the first batch was opened; the last
    jobs: list[tuple[float, float]] = []  # from when to when
    while opened < batches:
        while opened < min(batches, complete + lag):
            queue.extend([opened] * population)
            opened, ended = opened + 1, free
        while queue and len(running) < slots:
            end = free + times[len(jobs)]
            jobs.append((free, end))
            heapq.heappush(running, (end, queue.popleft()))
        now, batch = heapq.heappop(running)
        free = max(free, now) + cost  # outcomes wait for the driver, one after the other
        awaited[batch] -= 1
        while complete < opened and not awaited[complete]:
            complete += 1
    worked = sum(max(0.0, min(end, ended) - max(start, began)) for start, end in jobs)
    return worked / slots / (ended - began)

"""What workers have, in words."""

from collections.abc import Mapping, Sequence


def shares_in_words(shares: Mapping[int, str]) -> str:
    """What each worker has, in one line such as `16 on each of workers 0 to 2, 4 on worker 3`.

    Args:
        shares: By number of the worker.
    """
    alike: dict[str, list[int]] = {}
    for worker, share in sorted(shares.items()):
        alike.setdefault(share, []).append(worker)
    return ", ".join(f"{share} on {_in_words(workers)}" for share, workers in alike.items())


def _in_words(workers: Sequence[int]) -> str:
    """Numbers of workers in ascending order, such as `worker 3` or `each of workers 0 to 2 and 5`."""
    if len(workers) == 1:
        return f"worker {workers[0]}"
    ranges: list[list[int]] = []
    for worker in workers:
        if ranges and worker == ranges[-1][-1] + 1:
            ranges[-1].append(worker)
        else:
            ranges.append([worker])
    *others, last = [str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}" for found in ranges]
    return f"each of workers {', '.join(others)}{' and ' if others else ''}{last}"

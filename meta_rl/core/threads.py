"""How torch's work is shared out over threads, where its own way does not pay."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import Any, TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let each operation run on one thread: threads that share out small ones mostly wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """Map on as many threads as torch has, each operation on one of them.

    Derivatives are not recorded, but where the function itself says so.
    """
    threads = torch.get_num_threads()
    unrecorded: Any = torch.no_grad()(function)
    if threads == 1:
        return [unrecorded(item) for item in items]
    with one_thread():
        return list(_pool(threads).map(unrecorded, items))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, "torch", initializer=torch.set_num_threads, initargs=(1,))
    # All begin now: a thread that began later would set the number for the whole process once more.
    begun = Barrier(threads)
    list(pool.map(lambda _: begun.wait(), range(threads)))
    return pool

"""Several processes that train one run together, each on its share of the tasks.

`torchrun` starts them. A process is a *rank*. Every rank draws the same meta-batch, plays its own
share of the tasks, and averages what steers the update over all ranks. In a single process each
function here returns what it is given.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meta_rl.core.errors import Silent, UserError

TreeT = TypeVar("TreeT")
ObjectT = TypeVar("ObjectT")

PATIENCE = timedelta(minutes=10)
"""How long a rank waits in a training step for the others, which play as long as it does."""
EVALUATION_PATIENCE = timedelta(days=365)
"""How long it waits for rank 0 to prepare the run or to evaluate: as long as rank 0 lives."""


class LostRank(UserError):  # noqa: N818
    """Another rank has ended, or has not answered within `PATIENCE`."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number among those of its machine."""
    local_size: int = 1
    """Processes of its machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """Return which of the meta-batch's tasks are this rank's: one block, as long as any.

        Raises:
            UserError: The tasks cannot be shared out evenly.
        """
        each, rest = divmod(tasks, self.size)
        if rest:
            raise UserError(
                f"meta_batch_size {tasks} cannot be shared out evenly over {self.size} processes; "
                f"give a multiple of {self.size}, or start as many processes as divide it "
                f"(torchrun --nproc-per-node)"
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def told_once(self, error: UserError) -> UserError:
        """Return an error that ends all ranks alike: on the others than rank 0 a silent one."""
        return error if self.is_first else Silent(str(error), error.exit_code)

    def device(self, name: str) -> str:
        """Return the device of this rank: of several on GPUs, each has the one of its number.

        Raises:
            UserError: One GPU is named for all of them.
        """
        if self.size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise UserError(
                f"device {name} is one GPU, but {self.size} processes need one each; say "
                f"--device cuda"
            )
        return f"cuda:{self.local_rank}"


@dataclass(frozen=True)
class _Groups:
    """What messages between ranks travel through."""

    cpu: "dist.ProcessGroup | None" = None
    cuda: "dist.ProcessGroup | None" = None


_ranks = Ranks()
_groups = _Groups()


def world() -> Ranks:
    """Return the processes of this run; a single one unless `joined` has found others."""
    return _ranks


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes that torchrun has started; without torchrun there are none.

    Who has joined already stays joined.

    Yields:
        All of them. Errors of other ranks than the first begin with the rank.
    """
    global _ranks, _groups
    started = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    if not started or _ranks.size > 1:
        yield _ranks
        return
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    # Tensors on a GPU have a group of their own, once it is known that there are any.
    with _noticing_losses():
        dist.init_process_group("gloo", timeout=EVALUATION_PATIENCE)
        _groups = _Groups(dist.new_group(backend="gloo", timeout=PATIENCE))
    _ranks = Ranks(rank, size, local_rank, local_size)
    try:
        yield _ranks
        dist.destroy_process_group()  # after an error, others may still be waiting in it
    except UserError as error:
        if rank > 0 and not isinstance(error, Silent):
            error.args = (f"rank {rank} of {size}: {error}",)
        raise
    finally:
        _ranks, _groups = Ranks(), _Groups()


def use(device: torch.device) -> None:
    """Prepare to share tensors on a device: those on GPUs travel by NCCL."""
    global _groups
    if _ranks.size > 1 and device.type == "cuda" and _groups.cuda is None:
        torch.cuda.set_device(device)
        with _noticing_losses():
            # After its own timeout NCCL ends the process, which then saves nothing.
            _groups = _Groups(_groups.cpu, dist.new_group(backend="nccl", timeout=2 * PATIENCE))


@torch.no_grad()
def sum_over_ranks(tree: TreeT) -> TreeT:
    """Return the sums over all ranks of a pytree's tensors, which all ranks must ask for.

    The sums are the same on all ranks, bit for bit.
    """
    if _ranks.size == 1:
        return tree
    leaves, structure = pytree.tree_flatten(tree)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, leaf in enumerate(leaves):
        alike.setdefault((leaf.device, leaf.dtype), []).append(place)
    for (device, _), places in alike.items():  # all of one kind in one message
        whole = torch.cat([leaves[place].reshape(-1) for place in places])
        _all_reduce(whole, device)
        pieces = torch.split(whole, [leaves[place].numel() for place in places])
        for place, piece in zip(places, pieces, strict=True):
            leaves[place] = piece.view(leaves[place].shape)
    summed: TreeT = pytree.tree_unflatten(leaves, structure)
    return summed


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put in place of each parameter's gradient, if it has one, the sum over all ranks."""
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter, slope in zip(moved, sum_over_ranks([p.grad for p in moved]), strict=True):
        parameter.grad = slope


def mean_over_ranks(tree: TreeT) -> TreeT:
    """Return the means over all ranks of a pytree's tensors; shares of tasks are equally large."""
    if _ranks.size == 1:
        return tree
    mean: TreeT = pytree.tree_map(lambda total: total / _ranks.size, sum_over_ranks(tree))
    return mean


def mean_of_parts(tree: TreeT, share: float) -> TreeT:
    """Return the means over all samples of a pytree's tensors, which are those over a rank's own.

    Args:
        share: How many of the samples are the rank's, as `Part` tells.
    """
    if _ranks.size == 1:
        return tree
    weighed: TreeT = pytree.tree_map(lambda mean: share * mean, tree)
    return sum_over_ranks(weighed)


def gathered(own: ObjectT) -> list[ObjectT]:
    """Return what each rank has, in their order: plain data, and tensors, which come on the CPU."""
    if _ranks.size == 1:
        return [own]
    own = pytree.tree_map_only(Tensor, Tensor.cpu, own)
    found: list[Any] = [None] * _ranks.size
    with _noticing_losses():
        dist.all_gather_object(found, own, group=_groups.cpu)
    return found


def any_problem(own: str | None) -> str | None:
    """Return what is wrong on the first rank where anything is; None if all is well on all."""
    return next((problem for problem in gathered(own) if problem is not None), None)


def digest(tree: Any) -> str:
    """Return a hash of tensors and numbers."""
    leaves, structure = pytree.tree_flatten(tree)
    found = hashlib.blake2b(str(structure).encode())
    for leaf in leaves:
        tensor = isinstance(leaf, Tensor)
        found.update(leaf.cpu().numpy().tobytes() if tensor else str(leaf).encode())
    return found.hexdigest()


def check_alike(tree: Any, what: str) -> None:
    """Make sure that all ranks hold the same tensors and numbers.

    Raises:
        UserError: They do not: what one of them learned has not reached the others.
    """
    if _ranks.size == 1:
        return
    prints = gathered(digest(tree))
    if unlike := [rank for rank, found in enumerate(prints) if found != prints[0]]:
        error = UserError(
            f"{what} of rank {unlike[0]} differs from that of rank 0, so they cannot go on "
            f"together; give them the same files, program and kind of machine, and see that the "
            f"agent takes all its means over ranks (meta_rl.core.ranks)"
        )
        raise _ranks.told_once(error)


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """Do something on rank 0, and then, if it went well, on the others.

    Rank 0 can so make files that the others read, and it alone says what is wrong with all.

    Raises:
        Silent: Rank 0 has failed, and says why.
        UserError: Another rank has failed, and says why.
    """
    if _ranks.size == 1:
        yield
        return
    failed = torch.zeros(())
    if _ranks.is_first:
        failed += 1
        try:
            yield
            failed -= 1
        finally:
            _broadcast(failed)
    else:
        _broadcast(failed)
        if failed:
            raise Silent("rank 0 says why")
        failed += 1
        try:
            yield
            failed -= 1
        finally:
            _wait(lambda: dist.all_reduce(failed, async_op=True))
        return
    _wait(lambda: dist.all_reduce(failed, async_op=True))
    if failed:
        raise UserError("another process of the run could not begin; it says why")


@contextlib.contextmanager
def first_rank_alone() -> Iterator[None]:
    """Let rank 0 do something at its leisure; the others wait at the end, as long as it lives.

    What fails on rank 0 ends the run, which the others notice.
    """
    yield
    if _ranks.size > 1:
        _broadcast(torch.zeros(()))


@dataclass(frozen=True)
class Part:
    """What this rank has of some samples that lie on all ranks."""

    rows: Int[Tensor, "B"]
    """Their places among the rank's own samples. A rank that has none takes its first one, for no
    share: so all ranks take the same steps and add up the same sums."""
    share: float
    """How many of the samples are the rank's. Means weighed by it add up to the mean of all."""


def part_of(which: Int[Tensor, "B"], own: int) -> Part:
    """Return this rank's part of some samples.

    Args:
        which: Places in the row of all ranks' samples, one rank's after the other's.
        own: How many each rank has.
    """
    places = which - _ranks.rank * own
    return part_at(torch.where((places >= 0) & (places < own), places, -1))


def part_at(places: Int[Tensor, "B"]) -> Part:
    """Return this rank's part of some samples.

    Args:
        places: Where each lies among the rank's own samples; -1 if on another rank.
    """
    rows = places[places >= 0]
    share = len(rows) / len(places)
    return Part(rows if share else torch.zeros(1, dtype=places.dtype), share)


def dealt(count: int) -> Part:
    """Return this rank's part of some samples that all ranks have: they are dealt out in turn."""
    place = torch.arange(count)
    return part_at(torch.where(place % _ranks.size == _ranks.rank, place, -1))


def places_in_order(own: Int[Tensor, "S"]) -> Int[Tensor, "R"]:
    """Return where each sample of all ranks lies among this rank's own; -1 if on another rank.

    Args:
        own: Numbers of this rank's samples, unlike those of all others. By them all are in order.
    """
    found = gathered(own)
    places = torch.cat(found).argsort() - sum(map(len, found[: _ranks.rank]))
    return torch.where((places >= 0) & (places < len(own)), places, -1)


def _all_reduce(whole: Tensor, device: torch.device) -> None:
    # NCCL would let Python go on at once, to hang where it reads the next number from the GPU.
    on_gpu = device.type == "cuda"
    group = _groups.cuda if on_gpu else _groups.cpu
    begin = partial(dist.all_reduce, whole, group=group, async_op=True)
    _wait(begin, PATIENCE if on_gpu else None)


def _broadcast(tensor: Tensor) -> None:
    _wait(lambda: dist.broadcast(tensor, 0, async_op=True))


def _wait(begin: Callable[[], Any], patience: timedelta | None = None) -> None:
    """Wait for a message between ranks, in Python, so that signals are heard meanwhile.

    Args:
        patience: How long; without it, as long as the message's group does.
    """
    with _noticing_losses():
        work, pause_s, began_s = begin(), 2e-5, time.monotonic()
        while not work.is_completed():
            if patience is not None and time.monotonic() - began_s > patience.total_seconds():
                raise RuntimeError("it has not taken part in a sum")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.01)
        work.wait()


@contextlib.contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        minutes = PATIENCE.total_seconds() / 60
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LostRank(
            f"another process of the run has ended, or has not answered for {minutes:.0f} minutes "
            f"(torchrun tells which; here: {reason})"
        ) from error

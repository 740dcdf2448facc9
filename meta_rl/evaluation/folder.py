"""The `evaluations/` folder of a run: what its files are called, and which of them is asked for."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from meta_rl.core.errors import UserError
from meta_rl.evaluation.life_plan import LEARNING
from meta_rl.evaluation.protocol import fingerprint
from meta_rl.evaluation.result import EvalResult, read_summary


@dataclass(frozen=True)
class Evaluation:
    """An evaluation by what its summary says; its cells are read only for `result`."""

    path: Path
    """Its JSON file."""
    summary: Mapping[str, Any]
    split: str | None
    """Split of the tasks."""
    actions: str | None
    """Kind of actions, `sampled` or `deterministic`."""
    fingerprint: str
    """Short hash of all that a comparable evaluation must share."""
    env_steps: int
    """Environment steps of training that the agent has had."""
    meta_iterations: int
    checkpoint: str
    """Which checkpoint was measured."""
    seed: int
    """Seed of the actions' noise."""

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Read a summary."""
        summary = read_summary(path)
        protocol = summary["protocol"]
        return cls(
            path,
            summary,
            protocol.get("split"),
            protocol.get("actions"),
            fingerprint(protocol),
            summary["env_steps"],
            summary["meta_iterations"],
            summary["checkpoint"],
            summary["seed"],
        )

    @property
    def stages(self) -> tuple[int, ...]:
        """Episodes adapted from, at each stage."""
        return tuple(stage["adaptation_episodes"] for stage in self.summary.get("stages", ()))

    @property
    def is_dated(self) -> bool:
        """Whether it says when it was made; older files do not."""
        return self.summary["made_at"] is not None

    @property
    def made_at(self) -> datetime:
        """When it was made, in UTC; by its file's time if it does not say."""
        if not self.is_dated:
            return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        made = datetime.fromisoformat(self.summary["made_at"])
        return made if made.tzinfo else made.replace(tzinfo=UTC)

    @cached_property
    def result(self) -> EvalResult:
        """All of it, with every cell; read once."""
        return EvalResult.load(self.path)

    def precedence(self, learning: str | None) -> tuple[int, bool, bool, datetime, str]:
        """Return what orders evaluations: the one with the largest speaks for the run.

        Args:
            learning: How the run's agent learns where tasks change, by the run's own protocol.
        """
        as_its_own = self.summary["protocol"].get(LEARNING) == learning
        is_latest = self.checkpoint == "latest"
        return self.env_steps, is_latest, as_its_own, self.made_at, self.path.name


@dataclass(frozen=True)
class Wanted:
    """Which evaluations of a run are of interest."""

    split: str = "test"
    """Split of the tasks."""
    actions: str = "sampled"
    """Kind of actions, `sampled` or `deterministic`."""
    checkpoint: str | None = None
    """Which checkpoint was measured, `latest` or `best`; None takes either."""

    @property
    def words(self) -> str:
        """What they measure."""
        of = "" if self.checkpoint is None else f" of the {self.checkpoint} checkpoint"
        return f"on {self.split} tasks with {self.actions} actions{of}"

    @property
    def flags(self) -> str:
        """How `meta-rl evaluate` makes one."""
        of = "" if self.checkpoint is None else f" --checkpoint {self.checkpoint}"
        return f"--split {self.split} --actions {self.actions}{of}"

    def fits(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation is one of these."""
        asked = self.split, self.actions, self.checkpoint or evaluation.checkpoint
        return (evaluation.split, evaluation.actions, evaluation.checkpoint) == asked


class Evaluations:
    """The evaluations in a folder, in the order of their files' names.

    To go through them reads their summaries, each once, and raises a UserError at a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[Path, Evaluation] = {}

    def __iter__(self) -> Iterator[Evaluation]:
        return map(self._at, self._files())

    def readable(self) -> Iterator[Evaluation]:
        """Go through those that can be read: a damaged one can be made again."""
        for path in self._files():
            try:
                found = self._at(path)
            except UserError:
                continue
            yield found

    def save(self, result: EvalResult, run: str = "") -> Path:
        """Write `<env_steps>-<split>-<actions>-seed<N>-<fingerprint>.json`, and cells as npz.

        Before the fingerprint stands how the agent learned, where tasks change, and which
        checkpoint was measured, if it is not the latest. Stages stand after it if they are others
        than those of a file that is there.

        Args:
            run: Name to stand first, where evaluations of several runs come together.
        """
        kind = f"{result.protocol['split']}-{result.protocol['actions']}-seed{result.seed}"
        if LEARNING in result.protocol:
            kind += f"-{result.protocol[LEARNING]}"
        if result.checkpoint != "latest":
            digest = blake2b(result.checkpoint.encode(), digest_size=4).hexdigest()
            kind += "-best" if result.checkpoint == "best" else f"-{digest}"
        of_run = f"{run}-" if run else ""
        path = self.path / f"{of_run}{result.env_steps}-{kind}-{result.fingerprint}.json"
        for other in self.readable():
            if other.path == path and other.stages != result.adaptation_episodes:
                stages = "-".join(map(str, result.adaptation_episodes))
                path = path.with_stem(f"{path.stem}-after-{stages}")
                break
        self._read.pop(path, None)
        return result.save_as(path)

    def unfinished(self, identity: str) -> Path:
        """Return the file that keeps the cells of an evaluation until all are measured.

        Args:
            identity: Hash of all that decides the cells.
        """
        return self.path / f"partial-{identity}.npz"

    def fitting(self, wanted: Wanted) -> list[Evaluation]:
        """Return the wanted ones."""
        return [each for each in self if wanted.fits(each)]

    def choose(
        self, wanted: Wanted, protocol: str | None = None, learning: str | None = None
    ) -> tuple[EvalResult, str | None]:
        """Read the wanted evaluation that speaks for the run.

        It is the one with the most env steps of training. Of equals it is the latest checkpoint's,
        then one whose agent learned as in the run's own protocol, then the one made last.

        Args:
            protocol: Fingerprint of the evaluation, if the run has such a one; None takes any.
            learning: How the run's agent learns where tasks change, by the run's own protocol.

        Returns:
            The evaluation, and a sentence on which it is if there are several.
        """
        fitting = self.fitting(wanted)
        if not fitting:
            raise self._missing(wanted)
        preferred = [each for each in fitting if each.fingerprint == protocol] or fitting
        chosen = max(preferred, key=lambda each: each.precedence(learning))
        return chosen.result, _told(chosen, fitting)

    def own(
        self, meta_iterations: int, protocol: Mapping[str, Any], seed: int
    ) -> EvalResult | None:
        """Return the run's own evaluation of its latest checkpoint; none if none can be read.

        Args:
            meta_iterations: Where the checkpoint is.
            seed: Of the actions' noise.
        """
        learning = protocol.get(LEARNING)  # which the fingerprint leaves out
        asked = meta_iterations, fingerprint(protocol), learning, "latest", seed
        for each in self.readable():
            learned = each.summary["protocol"].get(LEARNING)
            found = each.meta_iterations, each.fingerprint, learned, each.checkpoint, each.seed
            if found == asked:
                with suppress(UserError):  # its cells can be made again
                    return each.result
        return None

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("*.json"))

    def _at(self, path: Path) -> Evaluation:
        if path not in self._read:
            self._read[path] = Evaluation.read(path)
        return self._read[path]

    def _missing(self, wanted: Wanted) -> UserError:
        """Return the error of a run that has none of the wanted evaluations: it names others."""
        others = dict.fromkeys(
            f"--split {each.split} --actions {each.actions}"
            for each in self
            if (each.split, each.actions) != (wanted.split, wanted.actions)
        )
        has = f" It has: {', '.join(others)}" if others else ""
        run = self.path.parent
        return UserError(
            f"{run} has no evaluation {wanted.words}; make one with `meta-rl evaluate {run} "
            f"{wanted.flags}`.{has}".removesuffix(".")
        )


def _told(chosen: Evaluation, fitting: list[Evaluation]) -> str | None:
    """Say which of several evaluations was taken, and whether that rests on a file's time."""
    if len(fitting) == 1:
        return None
    equals = [each for each in fitting if each.env_steps == chosen.env_steps]
    undated = [each.path.name for each in equals if not each.is_dated]
    note = ""
    if len(equals) > 1 and undated:
        note = f"; by the file's time for {', '.join(undated)}, older than the field made_at"
    return (
        f"of {len(fitting)} evaluations takes {chosen.path.name}, {chosen.env_steps:,} env steps, "
        f"checkpoint {chosen.checkpoint}, made {chosen.made_at:%Y-%m-%d %H:%M:%S} UTC{note}"
    )

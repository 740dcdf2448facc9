"""Trims a run to a policy for pretrained/, and records how well it does.

    python scripts/make_pretrained.py RUN NAME --words "what it is, for `meta-rl list`"

The checkpoint keeps what adaptation needs; if that is over 400 kB, its weights are rounded to half
precision. The trimmed policy is then evaluated by the run's own protocol on held-out tasks; the
test of pretrained/ repeats it.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from _entry import run_script

from meta_rl.commands import cli
from meta_rl.core.errors import UserError
from meta_rl.experiment import catalog
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trimmed import trim

LARGEST = 400_000
"""Bytes that a checkpoint in pretrained/ may have."""


@dataclass(frozen=True)
class Args:
    """Trim a run to a policy for pretrained/."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    name: Annotated[str, tyro.conf.Positional]
    """Name of the policy."""
    words: str
    """Description of the policy, in one line."""


def main(args: Args) -> int:
    """Trim and evaluate."""
    run, place = RunFolder(args.run), catalog.ROOT / "pretrained" / args.name
    if place.exists():
        raise UserError(f"{place} exists already; remove it first, or choose another NAME")
    with tempfile.TemporaryDirectory() as scratch:
        small = RunFolder(Path(scratch) / args.name)
        make(run, small, args.words)
        code = evaluate(small)
        if code == 0:
            copy = catalog.ROOT / f".{args.name}"  # a kill leaves no half of one in pretrained/
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(small.path, copy)
            copy.rename(place)
    return code


def make(run: RunFolder, small: RunFolder, words: str) -> None:
    """Write a folder with what is kept of a run."""
    state = checkpoint.load(run.checkpoint("latest"))
    small.checkpoints.mkdir(parents=True)
    small.evaluations.mkdir()
    file = small.checkpoint("latest")
    checkpoint.save(trim(state), file)
    if file.stat().st_size > LARGEST:
        checkpoint.save(trim(state, half=True), file)
    if file.stat().st_size > LARGEST:
        raise UserError(f"{file} has {file.stat().st_size:,} bytes, more than {LARGEST:,}")
    for name in ("protocol.json", "environment.txt"):
        shutil.copy(run.path / name, small.path / name)
    config = (run.path / "config.yaml").read_text()
    (small.path / "config.yaml").write_text(f"# {words}\n{config}")
    print(f"{file}: {file.stat().st_size:,} bytes")


def evaluate(small: RunFolder) -> int:
    """Measure the policy as it is kept; return the exit code."""
    output = small.evaluations / "test.json"
    code = cli.main(["evaluate", str(small.path), "--output", str(output)])
    output.with_suffix(".npz").unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    run_script(main, Args, __doc__)

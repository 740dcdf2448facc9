import io
import os
import pickle
import random
import resource

import pytest
import torch

from meta_rl.core.errors import UserError
from meta_rl.runs import checkpoint

STATE = {"theta": torch.arange(6.0).reshape(2, 3), "meta_iterations": 3, "best": (0.5, -1.0)}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.fixture
def path(tmp_path):
    checkpoint.save(STATE, tmp_path / "latest.pt")
    return tmp_path / "latest.pt"


def test_a_checkpoint_comes_back_as_it_was(path, identical):
    assert identical(checkpoint.load(path), {"format": checkpoint.FORMAT, **STATE})
    assert [file.name for file in path.parent.iterdir()] == ["latest.pt"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint .*none.pt; has the run made none.pt yet?"):
        checkpoint.load(tmp_path / "none.pt")


def test_a_checkpoint_cut_short_at_any_length_is_refused(path):
    content = path.read_bytes()
    for size in range(0, len(content), 61):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"latest.pt is cut short or damaged .*best.pt"):
            checkpoint.load(path)


def test_changed_bits_are_noticed_or_harmless(path, identical):
    content, expected = path.read_bytes(), checkpoint.load(path)
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            assert identical(checkpoint.load(path), expected)
        except UserError:
            refused += 1
    assert refused > 30  # most bytes of so small an archive are the alignment's padding


def test_a_foreign_file_is_refused_without_executing_any_of_it(tmp_path):
    sentinel, path = tmp_path / "executed", tmp_path / "latest.pt"
    zipped = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "agent": Evil(sentinel)}, zipped)
    for content, reason in (
        (pickle.dumps(Evil(sentinel)), "is cut short or damaged"),
        (pickle.dumps({"format": checkpoint.FORMAT, "agent": 1}), "is cut short or damaged"),
        (zipped.getvalue(), "holds more than tensors and plain data"),
        (b"epoch,loss\n1,0.5\n", "is cut short or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            checkpoint.load(path)
    assert not sentinel.exists()

    pickle.loads(pickle.dumps(Evil(sentinel)))  # who trusts the file, executes it
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("content", "given"), [({"theta": STATE["theta"]}, "None"), ([1, 2], "'list'")]
)
def test_another_tools_checkpoint_is_refused(tmp_path, content, given):
    torch.save(content, tmp_path / "latest.pt")
    with pytest.raises(UserError, match=rf"is not a 'meta-rl checkpoint 1', but {given}"):
        checkpoint.load(tmp_path / "latest.pt")


def test_a_full_disk_leaves_the_checkpoint_before_untouched(path, identical):
    path.with_name(f"latest.pt.{os.getpid()}.tmp").symlink_to("/dev/full")

    with pytest.raises(UserError, match=r"No space left on device.*before is untouched"):
        checkpoint.save({"theta": torch.zeros(3)}, path)

    assert identical(checkpoint.load(path)["theta"], STATE["theta"])
    assert [file.name for file in path.parent.iterdir()] == ["latest.pt"]


@pytest.mark.parametrize("limit_bytes", [0, 100, 4096])
def test_a_write_that_stops_half_way_leaves_the_checkpoint_before_untouched(
    path, identical, limit_bytes
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        with pytest.raises(UserError, match=r"File too large.*the one before is untouched"):
            checkpoint.save({"theta": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert identical(checkpoint.load(path)["theta"], STATE["theta"])
    assert [file.name for file in path.parent.iterdir()] == ["latest.pt"]


def test_a_folder_that_is_a_file_is_a_user_error(path):
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        checkpoint.save(STATE, path / "latest.pt")


@pytest.mark.parametrize(("run_id", "sinks"), [("abc", {"W&B": {"run_id": "abc"}}), (None, {})])
def test_the_wandb_run_of_an_older_checkpoint_goes_on(run_id, sinks, tmp_path):
    path = tmp_path / "latest.pt"
    checkpoint.save({"meta_iterations": 3, "wandb_run_id": run_id}, path)
    state = checkpoint.load(path)
    assert state["sinks"] == sinks and "wandb_run_id" not in state

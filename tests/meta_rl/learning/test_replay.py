import pytest
import torch

from meta_rl.core.errors import UserError
from meta_rl.learning.replay import Replay


def rows(first, count):
    return {"n": torch.arange(first, first + count), "x": torch.rand(count, 2)}


def replay_of(capacity):
    return Replay(capacity, rows(0, 0))


def numbers(replay):
    return replay.columns["n"].tolist()


def test_the_last_rows_are_kept_and_drawn():
    replay = replay_of(10)
    for first in range(0, 30, 5):
        replay.add(rows(first, 5))
    replay.mark()
    assert numbers(replay) == list(range(20, 30)) and len(replay) == 10
    drawn = replay.sample(500, torch.Generator().manual_seed(0))["n"]
    assert set(drawn.tolist()) == set(range(20, 30))


def test_before_a_mark_only_the_last_are_drawn_and_the_rest_can_come_back():
    replay = replay_of(4)
    replay.add(rows(0, 4))
    mark = replay.mark()
    replay.add(rows(4, 4))
    assert set(replay.sample(200, torch.Generator().manual_seed(0))["n"].tolist()) == {4, 5, 6, 7}
    replay.rewind(mark)
    assert numbers(replay) == [0, 1, 2, 3]


def test_a_mark_is_read_back_whatever_was_written_after_it(tmp_path):
    replay = replay_of(10)
    replay.add(rows(0, 6))
    replay.write(tmp_path, replay.mark())
    replay.add(rows(6, 6))
    kept = replay.mark()
    replay.write(tmp_path, kept)
    replay.add(rows(12, 3))
    replay.write(tmp_path, replay.mark())  # and then the process is killed

    again = replay_of(10)
    again.read(tmp_path, kept)
    assert numbers(again) == list(range(2, 12))
    assert not list(tmp_path.glob("*12-*15.pt"))
    again.add(rows(12, 2))
    again.write(tmp_path, again.mark())
    once_more = replay_of(10)
    once_more.read(tmp_path, again.mark())
    assert numbers(once_more) == numbers(again)


def test_files_that_no_checkpoint_names_are_deleted_one_checkpoint_later(tmp_path):
    replay = replay_of(4)
    for first in range(0, 20, 4):
        replay.add(rows(first, 4))
        replay.write(tmp_path, replay.mark())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_segment_that_is_missing_is_told(tmp_path):
    replay = replay_of(10)
    replay.add(rows(0, 3))
    replay.write(tmp_path, replay.mark())
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(UserError, match="lacks the rows 0 to 3"):
        replay_of(10).read(tmp_path, replay.mark())

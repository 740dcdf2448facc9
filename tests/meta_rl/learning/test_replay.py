import pytest
import torch

from meta_rl.core.errors import UserError
from meta_rl.core.types import Task, Tasks
from meta_rl.learning.replay import Replay, RowsByTask, task_keys


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
    assert replay.last["n"].tolist() == list(range(20, 30)) and len(replay) == 10
    drawn = replay.sample(500, torch.Generator().manual_seed(0))["n"]
    assert set(drawn.tolist()) == set(range(20, 30))
    replay.add(rows(30, 5))
    assert numbers(replay) == list(range(20, 35)), "what the last mark names, and what is new"


def test_before_a_mark_only_the_last_are_drawn_and_the_rest_can_come_back():
    replay = replay_of(4)
    replay.add(rows(0, 4))
    mark = replay.mark()
    replay.add(rows(4, 4))
    assert set(replay.sample(200, torch.Generator().manual_seed(0))["n"].tolist()) == {4, 5, 6, 7}
    replay.rewind(mark)
    assert numbers(replay) == [0, 1, 2, 3]


class Interrupting(dict):
    """Rows of which one column cannot be had."""

    def __getitem__(self, name):
        if name == "x":
            raise KeyboardInterrupt
        return super().__getitem__(name)


def test_an_interrupted_addition_leaves_what_the_last_mark_names(tmp_path):
    replay = Replay(6, {"n": torch.zeros(0, dtype=torch.long), "x": torch.zeros(0)})
    for first in (0, 4, 8):
        replay.add({"n": torch.arange(first, first + 4), "x": torch.arange(first, first + 4.0)})
        mark = replay.mark()
    with pytest.raises(KeyboardInterrupt):
        replay.add(Interrupting(n=torch.arange(12, 16), x=torch.arange(12, 16.0)))
    replay.write(tmp_path, mark)
    again = Replay(6, {"n": torch.zeros(0, dtype=torch.long), "x": torch.zeros(0)})
    again.read(tmp_path, mark)
    assert numbers(again) == again.columns["x"].tolist() == list(range(6, 12))


def test_segments_of_other_columns_are_told(tmp_path):
    replay = replay_of(10)
    replay.add(rows(0, 6))
    mark = replay.mark()
    replay.write(tmp_path, mark)
    newer = Replay(10, rows(0, 0) | {"failed": torch.zeros(0, dtype=torch.bool)})
    with pytest.raises(UserError, match="another version of the agent: its rows have no failed"):
        newer.read(tmp_path, mark)


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
    assert numbers(once_more) == again.last["n"].tolist() == list(range(4, 14))


def test_files_that_no_checkpoint_names_are_deleted_once_it_is_written(tmp_path):
    replay = replay_of(6)
    for first in range(0, 20, 4):
        replay.add(rows(first, 4))
        mark = replay.mark()
        replay.write(tmp_path, mark)
        replay.delete(tmp_path, mark)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before_complete(tmp_path):
    replay = replay_of(4)
    replay.add(rows(0, 4))
    before = replay.mark()
    replay.write(tmp_path, before)
    replay.delete(tmp_path, before)  # its checkpoint is written
    replay.add(rows(4, 4))
    replay.write(tmp_path, replay.mark())  # that of this one is not
    replay.write(tmp_path, replay.mark())
    again = replay_of(4)
    again.read(tmp_path, before)
    assert numbers(again) == [0, 1, 2, 3]


def test_what_a_mark_names_can_be_written_after_another_mark(tmp_path):
    replay = replay_of(3)
    replay.add(rows(0, 2))
    before = replay.mark()
    replay.add(rows(2, 4))
    replay.mark()
    replay.write(tmp_path, before)
    again = replay_of(3)
    again.read(tmp_path, before)
    assert numbers(again) == [0, 1]


def test_a_segment_that_is_missing_is_told(tmp_path):
    replay = replay_of(10)
    replay.add(rows(0, 3))
    replay.write(tmp_path, replay.mark())
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(UserError, match="lacks the rows 0 to 3"):
        replay_of(10).read(tmp_path, replay.mark())


def test_a_segment_that_is_damaged_is_told(tmp_path):
    replay = replay_of(10)
    replay.add(rows(0, 6))
    replay.write(tmp_path, mark := replay.mark())
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-50])
    with pytest.raises(UserError, match=f"{segment.name} is cut short or damaged"):
        replay_of(10).read(tmp_path, mark)


def test_the_room_of_a_full_replay_is_told_before_it_holds_anything():
    replay = replay_of(10)
    told = replay.room
    replay.add(rows(0, 25))
    assert told == 10 * (8 + 2 * 4) == sum(each.nbytes for each in replay.last.values())


def test_rows_are_drawn_evenly_from_each_task_that_is_asked_for():
    key = torch.tensor([7, 3, 7, 9, 7, 3, 7, 7])
    by_task = RowsByTask(key, torch.tensor([0, 1, 2, 3, 4, 5, 6]))  # the last one may not be drawn
    assert by_task.keys.tolist() == [3, 7, 9] and len(by_task) == 3
    drawn = by_task.sample(torch.tensor([1, 0, 2, 1]), 4000, torch.Generator().manual_seed(0))
    assert key[drawn].float().std(dim=1).eq(0).all() and key[drawn[:, 0]].tolist() == [7, 3, 9, 7]
    shares = drawn[0].bincount(minlength=8) / 4000
    expected = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0]) / 4
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)  # 5 σ


def test_a_tasks_key_is_its_own_wherever_it_is_played():
    tasks = [Task("f", name, index, (0.0,)) for name in ("reach", "push") for index in range(50)]
    keys = task_keys(Tasks.stack(tasks))
    assert len(set(keys.tolist())) == 100 and (keys >= 0).all()
    assert task_keys(Tasks.stack(tasks[70:71])) == keys[70]


def test_a_task_that_is_there_twice_is_one_task():
    tasks = Tasks("f", ("a", "b", "a", "a"), torch.tensor([0, 0, 1, 0]), torch.zeros(4, 1).double())
    keys = task_keys(tasks)
    assert keys[0] == keys[3] and len(set(keys.tolist())) == 3

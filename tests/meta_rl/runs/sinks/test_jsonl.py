import json
import math
from pathlib import Path

from meta_rl.runs.metrics import read_metrics
from meta_rl.runs.sinks.base import Sink, Sinks
from meta_rl.runs.sinks.jsonl import JsonlSink


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Listener(Sink):
    def __init__(self):
        self.heard = []

    def say(self, message):
        self.heard.append(message)


def test_a_line_holds_counters_time_and_metrics_and_no_invalid_json(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.log({"loss": 0.5, "kl": math.nan, "ratio": math.inf}, env_steps=100, meta_iterations=1)

    (row,) = rows_of(tmp_path / "metrics.jsonl")
    assert row.pop("wall_time_s") >= 0
    assert row == {"env_steps": 100, "meta_iterations": 1, "loss": 0.5, "kl": None, "ratio": None}


def test_a_resumed_run_drops_what_was_written_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    killed = JsonlSink(path)
    for iteration in (1, 2, 3):
        killed.log({"loss": float(iteration)}, env_steps=10 * iteration, meta_iterations=iteration)
    with path.open("a") as file:
        file.write('{"env_steps": 40, "meta_iter')

    resumed = JsonlSink(path)
    resumed.truncate_after(2)
    resumed.log({"loss": 33.0}, env_steps=30, meta_iterations=3)

    assert [row["loss"] for row in rows_of(path)] == [1.0, 2.0, 33.0]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_wall_time_goes_on_where_the_checkpoint_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 1, "meta_iterations": 1, "wall_time_s": 1000.0}\n')

    resumed = JsonlSink(path)
    resumed.truncate_after(1)
    resumed.log({}, env_steps=2, meta_iterations=2)

    assert 1000 <= rows_of(path)[-1]["wall_time_s"] < 1060


def test_truncating_before_anything_was_written_is_fine(tmp_path):
    JsonlSink(tmp_path / "metrics.jsonl").truncate_after(0)

    assert list(tmp_path.iterdir()) == []


def test_damaged_lines_are_moved_aside_with_a_word_and_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [
        json.dumps({"env_steps": 10 * n, "meta_iterations": n, "wall_time_s": 1.0 * n}).encode()
        for n in (1, 2, 3)
    ]
    cut, binary, foreign = whole[1][:20], b"\x00\xff\x00", b'{"loss": 1.0}'
    path.write_bytes(b"\n".join([whole[0], cut, binary, whole[1], foreign, b"", whole[2], b""]))
    sink, listener = JsonlSink(path), Listener()
    Sinks([sink, listener])

    sink.truncate_after(2)
    sink.log({}, env_steps=30, meta_iterations=3)

    assert [row["meta_iterations"] for row in rows_of(path)] == [1, 2, 3]
    aside = tmp_path / "metrics.jsonl.damaged"
    assert aside.read_bytes() == b"\n".join([cut, binary, foreign, b""])
    (told,) = listener.heard
    assert "damaged lines" in told and f"{aside.name} (3)" in told
    sink.truncate_after(3)
    assert len(listener.heard) == 1 and aside.read_bytes().count(b"\n") == 3


def test_a_last_line_without_its_end_is_unfinished_or_whole_but_never_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first, second = (json.dumps({"env_steps": n, "meta_iterations": n}) for n in (1, 2))
    path.write_text(f"{first}\n{second[:9]}")
    assert [row["env_steps"] for row in read_metrics(path).rows] == [1]
    assert read_metrics(path).damaged == ()

    path.write_text(f"{first}\n{second}")  # as editors leave it
    JsonlSink(path).truncate_after(2)
    assert path.read_text() == f"{first}\n{second}\n"

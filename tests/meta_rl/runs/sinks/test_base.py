import pytest

from meta_rl.core.errors import UserError
from meta_rl.runs.sinks.base import Beginning, Sink, Sinks
from meta_rl.runs.sinks.journal import JournalSink


class Recorder(Sink):
    """Remembers what it was told, and fails when it is told to."""

    def __init__(self, name, fails_at=(), is_the_record=False):
        self.name, self.fails_at, self.is_the_record = name, fails_at, is_the_record
        self.told, self.state = [], {}

    def log(self, metrics, env_steps, meta_iterations):
        self._tell("log", meta_iterations)

    def say(self, message):
        self._tell("say", message)

    def finish(self, succeeded=True):
        self._tell("finish", succeeded)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = dict(state)

    def _tell(self, *what):
        if what[0] in self.fails_at:
            raise OSError("no room")
        self.told.append(what)


def test_a_sink_may_leave_every_method_away(tmp_path):
    sinks = Sinks([Sink()])
    sinks.start(Beginning(tmp_path, "run", {}))
    sinks.log({"loss": 1.0}, env_steps=1, meta_iterations=1)
    sinks.say("word")
    sinks.log_table("table", ["a"], [[1]])
    sinks.log_figure("figure", None)
    sinks.log_video("film", tmp_path, "caption")
    sinks.log_html("page", tmp_path)
    sinks.log_artifact(tmp_path, "file", "checkpoint")
    sinks.finish()
    assert sinks.state_dict() == {} and not sinks.wants_figures
    assert list(tmp_path.iterdir()) == []


def test_a_sink_that_fails_is_switched_off_with_one_warning():
    good, bad = Recorder("good"), Recorder("bad", fails_at=("log", "finish"))
    sinks = Sinks([bad, good])
    sinks.log({}, 1, 1)
    sinks.log({}, 2, 2)
    bad.fails_at = ()
    sinks.say("on we go")
    sinks.finish()

    (_, warning), *rest = good.told
    assert warning.startswith("warning: bad is switched off: no room (the run goes on")
    assert rest == [("log", 1), ("log", 2), ("say", "on we go"), ("finish", True)]
    assert bad.told == [("finish", True)]  # which gives back what it holds, such as a terminal


def test_a_console_that_fails_is_told_in_the_journal(tmp_path):
    console = Recorder("the console", fails_at=("say", "log"))
    sinks = Sinks([console, JournalSink(tmp_path / "log.txt")])
    sinks.say("first")
    sinks.say("second")
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines[0].startswith("warning: the console is switched off: no room")
    assert lines[1:] == ["first", "second"]


def test_sinks_that_all_fail_end_nothing():
    every = [Recorder(name, fails_at=("log", "say", "finish")) for name in "abc"]
    sinks = Sinks(every)
    sinks.log({}, 1, 1)
    sinks.finish()
    assert all(sink.told == [] for sink in every)


def test_only_the_record_may_stop_a_run():
    class Record(Recorder):
        def log(self, metrics, env_steps, meta_iterations):
            raise UserError("cannot write")

    with pytest.raises(UserError, match="cannot write"):
        Sinks([Record("metrics", is_the_record=True)]).log({}, 1, 1)


def test_what_is_said_while_others_finish_is_still_shown():
    class Late(Sink):
        def finish(self, succeeded=True):
            self.notify("uploaded")

    first = Recorder("first")
    Sinks([first, Late()]).finish()
    assert first.told == [("say", "uploaded"), ("finish", True)]


def test_each_sink_gets_its_own_state_back_and_absent_ones_keep_theirs():
    before = {"one": {"id": 1}, "absent": {"id": 2}}
    one, other = Recorder("one"), Recorder("other")
    sinks = Sinks([one, other])
    sinks.load_state_dict(before)
    assert (one.state, other.state) == ({"id": 1}, {})
    assert sinks.state_dict() == before
    other.state = {"id": 3}
    assert sinks.state_dict() == before | {"other": {"id": 3}}

import io

import pytest
from rich.console import Console

from meta_rl.runs.sinks.base import Beginning
from meta_rl.runs.sinks.console import ConsoleSink, PlainConsole


@pytest.fixture
def run(tmp_path):
    return Beginning(tmp_path, "small", {}, meta_iterations=3)


def test_without_a_terminal_the_first_and_last_iterations_have_a_line(run):
    output = io.StringIO()
    sink = ConsoleSink(Console(file=output, width=200))
    sink.start(run)
    adaptation = {"return/before": 1.0, "return/after": 2.5, "success/before": 0.0}
    for iteration in (1, 2, 3):
        sink.log(adaptation, env_steps=10 * iteration, meta_iterations=iteration)
    sink.log({"success/after": 0.5}, env_steps=30, meta_iterations=3)
    sink.finish()

    first, last = output.getvalue().splitlines()
    assert first.startswith("meta-iteration 1/3  ") and last.startswith("meta-iteration 3/3  ")
    assert "return 1.00 -> 2.50" in first and "success" not in first
    assert "env steps/s" in first and last.endswith("0:00:00 left")


def test_on_a_terminal_a_bar_shows_adaptation(tmp_path):
    output = io.StringIO()
    sink = ConsoleSink(Console(file=output, force_terminal=True, width=200))
    sink.start(Beginning(tmp_path, "small", {}, meta_iterations=10, meta_iterations_before=4))
    sink.log({"success/before": 0.1, "success/after": 0.4}, env_steps=50, meta_iterations=5)
    sink.finish()

    assert "5/10" in output.getvalue()
    assert "success 0.10 -> 0.40" in output.getvalue()


def test_sentences_are_printed_as_they_are_and_before_a_run_begins():
    output = io.StringIO()
    ConsoleSink(Console(file=output, width=20)).say("[red]7[/red] words longer than the line")
    assert output.getvalue() == "[red]7[/red] words longer than the line\n"


def test_a_reader_that_went_away_is_an_error_that_does_not_end_the_process(run):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    sink = ConsoleSink(PlainConsole(file=Closed()))
    sink.start(run)
    with pytest.raises(BrokenPipeError):
        sink.log({}, env_steps=1, meta_iterations=1)

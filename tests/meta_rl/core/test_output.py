import io
import subprocess
import sys

import pytest
from patience import PATIENCE_S

from meta_rl.core.output import Output, bearing_output


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


def test_the_first_failure_is_kept_and_nothing_is_raised():
    first = BrokenPipeError("gone")
    output = Output(Broken(first))
    print("a", file=output)
    print("b", file=output, flush=True)
    assert output.failure is first and output.reader_left


def test_what_works_is_passed_on():
    under = io.StringIO()
    output = Output(under)
    print("a", file=output, flush=True)
    assert under.getvalue() == "a\n" and output.failure is None and not output.isatty()


def test_other_errors_are_raised():
    with pytest.raises(ValueError, match="no such letter"):
        Output(Broken(ValueError("no such letter"))).write("a")


def test_the_streams_are_given_back(capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), bearing_output() as (out, _):
        print("seen")
        assert sys.stdout is out
        raise KeyError
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "seen\n"


SCRIPT = """
import os, sys
from meta_rl.core.output import bearing_output
with bearing_output() as (out, err):
    opened = os.open(os.devnull, os.O_RDONLY)
    print("x" * 100_000)
    print("y" * 100_000, file=sys.stderr)
    os.write(MARK, f"{opened > 2} {type(out.failure).__name__}".encode())
"""


@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        (">&- 2>&-", "True NoneType"),
        ("> /dev/full 2> /dev/full", "True OSError"),
        ("2>&1 | true", "True BrokenPipeError"),
    ],
)
def test_a_process_ends_well_whatever_its_output_is(redirection, told, environment, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(0.2)" + SCRIPT.replace("MARK", "9"))
    command = f"{sys.executable} {script} {redirection}"
    outcome = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"({command}) 9> mark; exit $?"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")
    assert (tmp_path / "mark").read_text() == told

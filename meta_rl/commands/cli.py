"""The command line: `meta-rl COMMAND ...`. Imports nothing heavy, so that help is fast."""

import importlib
import sys
from collections.abc import Sequence

from meta_rl.core.errors import Silent, UserError
from meta_rl.core.output import bearing_output

COMMANDS = {
    "train": "train a meta-policy: meta-rl train CONFIG [--field value ...], or --resume RUN",
    "sweep": "train several settings and choose on validation: meta-rl sweep CONFIG --vary ...",
    "evaluate": "measure how a run's policy adapts to held-out tasks: meta-rl evaluate RUN",
    "adapt": "adapt a run's policy to a task of yours and export it: meta-rl adapt RUN --env ENV",
    "render": "film the policy before and after it adapts: meta-rl render RUN --task NAME",
    "compare": "set runs side by side, as a table and a picture: meta-rl compare RUN RUN ...",
    "doctor": "find silent failures of an experiment: meta-rl doctor CONFIG|RUN",
    "report": "tell what runs achieved in one HTML file: meta-rl report RUN RUN ...",
    "list": "show what there is: meta-rl list [agents|envs|configs|pretrained]",
}
WRITES_FILES = {"train", "sweep", "evaluate", "adapt", "render", "report"}
"""Commands that write files. They succeed even if their words cannot be printed."""


def usage() -> str:
    """Return the top-level help."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: meta-rl COMMAND [--help] ...",
            "",
            "Trains, evaluates, compares and ships meta-reinforcement-learning policies.",
            "",
            *lines,
            "",
            "`meta-rl COMMAND --help` tells more. --debug shows the traceback of an error;",
            "--plugin package.module allows an agent or family of your own, outside the tree.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code. User errors are one message on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with bearing_output() as (out, err):
        code = _answer(words)
        out.flush()
        if out.failure is not None and not out.reader_left:
            print(f"meta-rl: cannot write the output: {out.failure}", file=err)
            if not WRITES_FILES & set(words):
                code = code or 1
    return code


def _answer(words: list[str]) -> int:
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except UserError as error:
        if debug:
            raise
        if isinstance(error, Silent):
            return error.exit_code
        print(f"meta-rl: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # unforeseen errors, such as a name that is too long
        if debug:
            raise
        print(f"meta-rl: {error} (--debug shows where)", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_lack_of_memory(error):
            raise
        said = " ".join(str(error).split())
        print(
            f"meta-rl: out of memory ({said}); smaller networks, or a lower meta_batch_size or "
            f"copies, need less (--debug shows where)",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("meta-rl: stopped", file=sys.stderr)
        return 130


def _is_lack_of_memory(error: Exception) -> bool:
    """Return whether Python, numpy, or torch on a CPU or GPU, did not get the memory it wanted."""
    named = {kind.__name__ for kind in type(error).__mro__}
    return bool(named & {"MemoryError", "OutOfMemoryError"}) or "can't allocate" in str(error)


def _parts(word: str) -> list[str]:
    """Return `--plugin=module` as two words."""
    return word.split("=", 1) if word.startswith("--plugin=") else [word]


def _dispatch(words: list[str]) -> int:
    words = [part for word in words for part in _parts(word)]
    while "--plugin" in words:
        from meta_rl.experiment.catalog import allow_plugin

        at = words.index("--plugin")
        if at + 1 == len(words):
            raise UserError("--plugin needs a module: --plugin package.module")
        allow_plugin(words[at + 1])
        del words[at : at + 2]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        from meta_rl import __version__

        print(f"meta-rl {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        from meta_rl.core.errors import what_there_is

        raise UserError(f"no command {command!r}; {what_there_is(command, COMMANDS)}")
    module = importlib.import_module(f"meta_rl.commands.{command}")
    code: int = module.main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""What W&B wrote, read back."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path


def records(run_folder: Path) -> dict[str, list[dict]]:
    """What W&B's own reader finds in a run's log, by kind of record."""
    printed = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    found = defaultdict(list)
    for record in map(json.loads, printed.splitlines()):
        found[record["type"]].append(record.get(record["type"], {}))
    return found

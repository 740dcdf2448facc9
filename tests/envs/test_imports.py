"""What a family imports before a simulator is made: the commands that only list stay quick."""

import json
import subprocess
import sys

from patience import PATIENCE_S

SCRIPT = """
import json, sys, torch
from meta_rl.experiment import catalog

loaded = {}
for name in catalog.names("envs"):
    before = set(sys.modules)
    module = catalog.load("envs", name)
    family = module.build(getattr(module, "EXAMPLE", None) or module.Config())
    family.sample(3, "train", torch.Generator())
    family.tasks("test")
    new = set(sys.modules) - before
    loaded[name] = sorted({"mujoco", "metaworld"} & new)
print(json.dumps(loaded))
"""


def test_sampling_imports_no_simulator(environment):
    for _ in range(2):  # goals that are drawn by a simulator the first time are kept
        found = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        loaded = json.loads(found.stdout)
        if not any(loaded.values()):
            break
    assert loaded and not any(loaded.values()), loaded

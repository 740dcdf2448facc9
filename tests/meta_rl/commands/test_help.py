"""Help pages answer at once: they import no large library."""

import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from meta_rl.commands._help import texts
from meta_rl.commands._standins import LARGE
from meta_rl.experiment import catalog
from meta_rl.experiment.config import EvaluationConfig, Experiment, TrackingConfig

ROOT = Path(catalog.__file__).parents[2]
ASK = """
import contextlib, io, json, sys
from meta_rl.commands.cli import main

told = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(words)
    told[" ".join(words)] = out.getvalue()
print(json.dumps({"told": told, "imported": sorted(sys.modules)}))
"""
PLUGIN = """
from dataclasses import dataclass
import torch

TABLE = torch.arange(3) + 1
assert TABLE.tolist() == [1, 2, 3]


@dataclass(frozen=True)
class Config:
    \"\"\"Computes while it is imported.\"\"\"

    reach: float = float(TABLE.sum())
    \"\"\"How far it goes.\"\"\"


def build(config, spec, device, seed):
    raise NotImplementedError
"""


def ask(*commands, environment=None, path=""):
    """Return what commands say in one fresh process, and the modules that it imported."""
    process = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"PYTHONPATH": f"{ROOT}:{path}"},
    )
    answer = json.loads(process.stdout)
    return answer["told"], set(answer["imported"])


def test_help_of_every_agent_and_family_imports_no_large_library(environment):
    chosen = {}  # one config of each agent and one of each family
    for name in catalog.config_names():
        content = yaml.safe_load(catalog.config_path(name).read_text())
        for part in ("agent", "envs"):
            chosen.setdefault((part, content[part]["name"]), name)
    names = sorted({*chosen.values(), "point_navigation_maml_trpo"})
    commands = [["--help"], ["train", "--help"], ["sweep", "--help"]]
    commands += [["train", name, "--help"] for name in names]

    told, imported = ask(*commands, environment=environment)

    assert not imported & {*LARGE, "metaworld"}
    for name in names:
        assert "--envs.horizon" in told[f"train {name} --help"]
        assert "Fields of the config" in told[f"train {name} --help"]
    assert "--agent.trust-region.max-kl" in told["train point_navigation_maml_trpo --help"]


def test_help_tells_the_same_as_with_the_libraries(environment):
    words = ["train", "ml10_rl2_ppo", "--help"]
    slow = "import torch\n" + ASK
    process = subprocess.run(
        [sys.executable, "-c", slow, json.dumps([words])],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    told, _ = ask(words, environment=environment)
    assert told == json.loads(process.stdout)["told"]


def test_an_agent_that_needs_its_library_while_it_is_imported_gets_it(environment, tmp_path):
    (tmp_path / "own_lab").mkdir()
    (tmp_path / "own_lab" / "agent.py").write_text(PLUGIN)
    words = ["train", "point_navigation_maml_trpo", "--agent.name", "own_lab.agent"]
    words += ["--plugin", "own_lab.agent", "--help"]

    told, imported = ask(words, environment=environment, path=tmp_path)

    (page,) = told.values()
    assert "--agent.reach" in page and "(default: 6.0)" in page
    assert "torch" in imported


@pytest.mark.parametrize("words", [["train", "nowhere", "--help"], ["train", "--seed", "--help"]])
def test_a_mistake_beside_help_is_told_as_without(words, meta_rl):
    meta_rl(*words).fails_with("meta-rl: ")


RANGES = ("at least", "at most", "above 0", "in [0, 1]", "in [0, 1)", "in [0.5, 1]", "between")


def sections():
    """Every dataclass whose fields are settings: the experiment's, and what the catalog holds."""
    found = {Experiment, EvaluationConfig, TrackingConfig}
    for kind in ("agents", "envs"):
        for name in catalog.names(kind):
            config = catalog.load(kind, name).Config
            found |= {cls for cls in config.__mro__ if is_dataclass(cls)}
            found |= {each for each in get_type_hints(config).values() if is_dataclass(each)}
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


@pytest.mark.parametrize("section", sections(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_each_field_has_a_help_text_and_each_number_a_range(section):
    told = texts(section)
    types = {field.name: str(field.type) for field in fields(section)}
    own = [name for name in vars(section).get("__annotations__", {}) if not name.startswith("_")]
    assert list(told) == own
    for name, text in told.items():
        assert text.endswith(".")
        if re.search(r"\b(int|float)\b", types[name]) and name != "version":
            assert any(phrase in text for phrase in RANGES), f"{name}: {text}"

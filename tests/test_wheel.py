"""An installed meta-rl needs no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from patience import PATIENCE_S

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_wheel_lists_its_configs_and_trains_from_another_folder(tmp_path):
    checkout = tmp_path / "checkout"  # so that a build leaves nothing in the tree
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("needs a git checkout to tell what belongs to it")
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "results/", "docs/")):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_bytes((ROOT / name).read_bytes())
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    subprocess.run([sys.executable, "-m", "pip", *command], cwd=checkout, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    def meta_rl(*words):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        variables = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        # In isolated mode the checkout that is installed for development cannot help out.
        script = f"import sys; sys.path.insert(0, {str(site)!r}); import meta_rl; "
        script += f"assert meta_rl.__file__.startswith({str(site)!r}); "
        script += f"from meta_rl.commands.cli import main; sys.exit(main({list(words)!r}))"
        return subprocess.run(
            [sys.executable, "-c", script],
            cwd=elsewhere,
            env=variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    listed = meta_rl("list", "configs")
    assert listed.returncode == 0, listed.stderr
    names = {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} <= names
    small = ("--meta-iterations", "1", "--meta-batch-size", "2", "--copies", "2", "--workers", "1")
    small += ("--envs.horizon", "20", "--evaluation.goals", "2")
    trained = meta_rl(
        "train", "point_navigation_maml_trpo", *small, "--tracking.mode", "off", "--name", "away"
    )
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "elsewhere" / "runs" / "away" / "checkpoints" / "latest.pt").is_file()
    report = meta_rl("report", "runs/away")
    assert report.returncode == 0, report.stderr

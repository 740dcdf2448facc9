import json
import os
import shutil
from contextlib import contextmanager

import pytest

from meta_rl.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def runs(small_config, tmp_path_factory):
    """Two agents on 2-D navigation, two seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    for agent in ("maml_trpo", "rl2_ppo"):
        config = small_config(agent, name="", runs=str(folder))
        for seed in (0, 1):
            name = f"{agent}-seed{seed}"
            assert main(["train", str(config), "--seed", str(seed), "--name", name]) == 0
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The runs' report."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", *map(str, runs), "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a screen, which keeps a log of what it asks the network for."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()

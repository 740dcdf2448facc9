import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from meta_rl.commands.cli import main
from meta_rl.evaluation.finished import load_run
from meta_rl.evaluation.folder import Wanted

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def runs(can_draw, small_config, tmp_path_factory):
    """Two agents on ML1 reach-v3, three seeds each, of short episodes."""
    folder = tmp_path_factory.mktemp("runs")
    reach = {"name": "metaworld", "benchmark": "ML1", "task": "reach-v3", "horizon": 10}
    for agent in ("maml_ppo", "maml_trpo"):
        config = small_config(agent, name="", runs=str(folder), envs=reach, evaluation={"goals": 3})
        for seed in (0, 1, 2):
            name = f"{agent}-seed{seed}"
            words = ["train", str(config), "--seed", str(seed), "--name", name]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["meta-rl", *words])
                assert main(words) == 0
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The runs' report, with videos, also logged to an offline W&B run."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        words = ["--output", path, "--videos", "--wandb"]
        assert main(["report", *map(str, [*runs, *words])]) == 0
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Chromium without a screen, which logs what it asks the network for."""
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


@pytest.fixture
def opened(chromium, page):
    """The report in the browser, on a screen of 1200 pixels or of the width asked for."""

    def open_at(width=1200, media="screen", scheme="light"):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )
        for log in ("browser", "performance"):
            chromium.get_log(log)  # what other pages left
        chromium.get(page.as_uri())
        return chromium.execute_script

    return open_at


def table(script, caption):
    """The texts of the table under a caption, row by row."""
    return script(
        "return [...document.querySelector(`table[aria-label='${arguments[0]}']`).rows]"
        ".map(row => [...row.cells].map(cell => cell.textContent))",
        caption,
    )


@pytest.mark.parametrize("width", [390, 1200])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_page(opened, width):
    script = opened(width)
    script("document.querySelectorAll('details').forEach(folded => folded.open = true)")

    figures = script("""
        return [...document.querySelectorAll('svg')].map(svg => {
            const marks = [...svg.querySelectorAll('path, image')].filter(mark => {
                const box = mark.getBoundingClientRect();
                return box.width > 100 && box.height > 10;
            });
            const box = svg.getBoundingClientRect();
            return [svg.getAttribute('aria-label'), box.width, box.height, marks.length];
        })""")
    texts = script("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")

    assert len(figures) == 10  # 2 of adaptation, 4 of learning, 2 heat maps and 2 profiles
    for alt, drawn_width, drawn_height, marks in figures:
        assert len(alt) > 20
        assert drawn_width > 250 and drawn_height > 80 and marks > 0, alt
    assert {"maml_ppo, 3 seeds", "maml_trpo, 3 seeds"} <= set(texts)
    assert script("return document.documentElement.scrollWidth") <= width


def test_the_page_asks_for_nothing_and_complains_of_nothing(chromium, opened, page):
    opened()

    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in asked
    assert [url for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
    assert chromium.get_log("browser") == []
    assert not re.search(
        r"""(src|href)=["']?(https?:)?//|url\(["']?http|<script""", page.read_text()
    )


def test_the_page_may_not_load_even_what_someone_adds_to_it(chromium, opened):
    script = opened()
    script("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")

    (complaint,) = chromium.get_log("browser")
    assert "Content Security Policy" in complaint["message"]


def test_results_are_the_evaluations(opened, runs):
    rows = table(opened(), "Mean over seeds and tasks")

    seeds = [load_run(run, Wanted()).result for run in runs]
    assert rows[0] == ["group", "episodes of the task learned from", "success", "return", "seeds"]
    assert [row[:2] for row in rows[1:]] == [
        *(["maml_ppo", "0"], ["maml_ppo", "2"]),
        *(["maml_trpo", "0"], ["maml_trpo", "2"]),
    ]
    for row, group, stage in zip(
        rows[1:], (seeds[:3],) * 2 + (seeds[3:],) * 2, (0, 1) * 2, strict=True
    ):
        mean = np.mean([seed.scores["episode_return"][:, stage].mean() for seed in group])
        value, low, high = (float(x) for x in re.findall(r"-?[\d.]+", row[3]))
        assert value == pytest.approx(mean, abs=0.01) and low <= value <= high


def test_settings_versions_and_commands_are_told(opened, runs):
    script = opened()

    settings = table(script, "Where groups differ")
    commands = script("return document.querySelector('details[open] pre').textContent").splitlines()
    (torch,) = [row for row in table(script, "Versions") if row[0] == "torch"]

    assert ["agent.name", "maml_ppo", "maml_trpo"] in settings
    assert not any(row[0].startswith(("envs.", "seed", "name")) for row in settings)
    assert len(commands) == 6 and all(command.startswith("meta-rl train ") for command in commands)
    assert re.match(r"2\.\d+", torch[1])
    assert any(row[0] == "machine" for row in table(script, "Versions"))


def test_films_play_from_the_page(opened):
    films = opened()(
        "return Promise.all([...document.querySelectorAll('video')].map(async film => {"
        "  await film.play(); return [film.poster, film.videoWidth, film.duration]; }))"
    )
    assert len(films) == 2  # the first run of each group
    for poster, width, duration_s in films:
        assert poster.startswith("data:image/jpeg") and width > 200 and duration_s >= 1


def test_wandb_gets_the_same(page):
    (media,) = page.parent.glob("wandb/offline-run-*/files/media")
    counts = Counter(path.suffix for path in media.rglob("*") if path.is_file())

    assert counts == {".png": 10, ".mp4": 2, ".html": 1, ".json": page.read_text().count("<table")}
    (logged,) = media.glob("html/*.html")
    assert logged.read_text() == page.read_text()
    (table,) = media.glob("table/settings/*.json")
    assert ["agent.name", "maml_ppo", "maml_trpo"] in json.loads(table.read_text())["data"]


def test_what_is_folded_is_printed(opened):
    seen = (
        "return [...document.querySelectorAll('details:not([open]) > *:not(summary)')]"
        ".map(part => part.checkVisibility())"
    )
    assert not any(opened()(seen))
    assert all(opened(media="print")(seen))


def test_text_in_figures_is_light_on_a_dark_page(opened):
    colors = (
        "return [getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('svg text')).fill]"
    )
    light, dark = opened(scheme="light")(colors), opened(scheme="dark")(colors)

    assert light[0] == light[1] != dark[0] == dark[1]


def test_identifiers_are_unique(page):
    found = re.findall(r' id="([^"]+)"', page.read_text())
    assert len(found) == len(set(found)) > 8


def test_a_report_of_one_run_has_no_comparison(meta_rl, runs):
    meta_rl("report", runs[0]).succeeds()

    text = Path("report.html").read_text()
    assert "Probability of improvement" not in text and "Where groups differ" not in text


def test_errors_say_what_to_do(meta_rl, runs, tmp_path):
    meta_rl("report").fails_with("at least one run folder")
    meta_rl("report", runs[0], "--output", tmp_path).fails_with("--output must end in .html")

import re
import subprocess
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from patience import PATIENCE_S
from PIL import Image

from envs.point_navigation import Config, PointEnv, PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.reports.film import (
    FRAMES_PER_SECOND,
    HOLD_S,
    FilmedEnv,
    Moment,
    Take,
    film_adaptation,
    frames,
    strip,
    write_film,
)
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trained import load_trained

RED, BLUE = (200, 0, 0), (0, 0, 200)
HELD = round(HOLD_S * FRAMES_PER_SECOND)


def take_of(color, moments, learned_from=0, success=False, size=(61, 321)):
    """A take whose pictures are of one color, lighter with every step."""
    shade = [np.minimum(np.array(color) + 10 * at, 255).astype(np.uint8) for at in range(moments)]
    return Take(
        learned_from,
        tuple(
            Moment(np.broadcast_to(shade[at], (*size, 3)).copy(), at, -1.0 * at, success)
            for at in range(moments)
        ),
    )


def colors(film, column):
    """The color of each frame near the bottom, where no text is."""
    return [tuple(int(part) for part in each[-20, column]) for each in film]


def play(path):
    """Return what ffmpeg says of a film, and its frames."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        path,
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    ]
    outcome = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S)
    described = outcome.stderr.decode()
    width, height = map(int, re.search(r"Video: .* (\d+)x(\d+)", described).groups())
    return described, np.frombuffer(outcome.stdout, np.uint8).reshape(-1, height, width, 3)


@pytest.fixture(scope="module")
def small_run(small_config, tmp_path_factory):
    from meta_rl.commands.cli import main

    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", str(small_config()), "--runs", str(runs)]) == 0
    return runs / "small"


def test_takes_play_side_by_side_and_the_shorter_one_waits():
    film = frames([take_of(RED, 4), take_of(BLUE, 2)], "a name")

    assert len(film) == 4 + HELD
    assert all(side % 2 == 0 for side in film[0].shape[:2])  # H.264 wants even sides
    assert colors(film, 100)[:4] == [(200, 0, 0), (210, 10, 10), (220, 20, 20), (230, 30, 30)]
    assert colors(film, 500)[:4] == [(0, 0, 200)] + 3 * [(10, 10, 210)]
    assert all((each == film[3]).all() for each in film[4:])


def test_small_pictures_are_enlarged_so_that_words_fit_above_them():
    (first, *_) = frames([take_of(color, 1, size=(32, 64)) for color in (RED, BLUE)], "a name")
    header = first.shape[0] - 5 * 32
    assert first.shape[1] == 2 * 5 * 64
    assert (first[header:, :320] == RED).all() and (first[header:, 320:] == BLUE).all()


def test_text_tells_stage_return_and_success_of_each_take():
    def header(takes):
        (film, *_) = frames(takes, "a name")
        return film[:98]

    both = header([take_of(RED, 1), take_of(BLUE, 1)])
    succeeded = header([take_of(RED, 1), take_of(BLUE, 1, success=True)])
    later = header([take_of(RED, 1), take_of(BLUE, 1, learned_from=10)])

    def changed(other):
        return np.flatnonzero((other != both).any(axis=(0, 2)))

    assert (both != 255).any()
    assert changed(succeeded).min() > 321  # over the right panel alone
    assert 321 <= changed(later).min() < changed(later).max() < 642
    green = (succeeded == (0, 128, 0)).all(-1)
    assert green.any() and not (both == (0, 128, 0)).all(-1).any()


def test_an_mp4_plays_what_was_filmed(tmp_path):
    path = write_film([take_of(RED, 3), take_of(BLUE, 3)], tmp_path / "new" / "film.mp4", "a name")

    described, film = play(path)

    assert "h264" in described and f"{FRAMES_PER_SECOND} fps" in described
    assert len(film) == 3 + HELD
    for shown, expected in zip(
        colors(film, 100) + colors(film, 500),
        colors(frames([take_of(RED, 3), take_of(BLUE, 3)], ""), 100)
        + colors(frames([take_of(RED, 3), take_of(BLUE, 3)], ""), 500),
        strict=True,
    ):
        np.testing.assert_allclose(shown, expected, atol=16)


def test_a_film_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(pictures, path):
        raise OSError("no space left")

    monkeypatch.setattr("meta_rl.reports.film._write_mp4", full)
    with pytest.raises(UserError, match="no space left; choose another --output"):
        write_film([take_of(RED, 3)], tmp_path / "film.mp4", "a name")
    assert not list(tmp_path.iterdir())


def test_a_strip_reaches_from_the_beginning_to_the_end():
    shown = np.asarray(strip([take_of(RED, 6), take_of(BLUE, 2)], columns=3, width=200))

    rows = len(shown) // 2
    upper, lower = shown[:rows][-20], shown[rows:][-20]
    assert [int(upper[column, 1]) for column in (100, 300, 500)] == [0, 20, 50]
    assert [int(lower[column, 1]) for column in (100, 300, 500)] == [0, 0, 10]


def test_the_first_episode_is_filmed_step_by_step_and_to_its_end():
    family = PointNavigation(Config(horizon=5))
    filmed = FilmedEnv(PointEnv(family.config, torch.device("cpu")), every=2)

    filmed.start(family.tasks("test")[:2], 1, seed=0)
    rewards = []
    for _ in range(8):
        rewards.append(float(filmed.step(torch.full((2, 1, 2), 0.1)).reward[0, 0]))
        filmed.reset_ended()

    assert [moment.steps for moment in filmed.moments] == [0, 2, 4, 5]
    told = [moment.return_so_far for moment in filmed.moments]
    np.testing.assert_allclose(told, [0, *(sum(rewards[:steps]) for steps in (2, 4, 5))])
    assert (filmed.moments[0].picture != filmed.moments[3].picture).any()


def test_an_environment_that_does_not_tell_success_is_filmed_without(monkeypatch):
    step = PointEnv.step
    silent = {"success": torch.full((1, 1), torch.nan)}
    monkeypatch.setattr(
        PointEnv, "step", lambda self, action: replace(step(self, action), metrics=silent)
    )
    family = PointNavigation(Config(horizon=5))
    filmed = FilmedEnv(PointEnv(family.config, torch.device("cpu")), every=1)

    filmed.start(family.tasks("test")[:1], 1, seed=0)
    filmed.step(torch.zeros(1, 1, 2))

    assert [moment.success for moment in filmed.moments] == [None, None]


def test_a_family_that_cannot_draw_is_said_to(small_run, monkeypatch):
    trained = load_trained(RunFolder(small_run), "latest")
    monkeypatch.setattr(
        PointNavigation,
        "make_env",
        lambda self, device, workers: FilmedEnv(PointEnv(self.config, device), every=1),
    )

    with pytest.raises(UserError, match=r"point_navigation cannot be filmed: .* no draw\(\)"):
        film_adaptation(trained, trained.distribution.tasks("test")[:1])


def test_a_film_has_a_panel_for_each_stage_of_adaptation(small_run, tmp_path):
    trained = load_trained(RunFolder(small_run), "latest")
    tasks = trained.distribution.tasks("test")[[1]]

    path = write_film(film_adaptation(trained, tasks, rounds=2), tmp_path / "film.mp4", "a film")

    assert play(path)[1][0].shape == (98 + 400, 3 * 400, 3)


def test_the_command_films_the_episodes_that_adapt_plays(meta_rl, small_run):
    words = [small_run, "--task", "point", "--goal", 2, "--episodes", 1, "--seed", 5]

    adapted = meta_rl("adapt", *words).succeeds().out
    rendered = meta_rl("render", *words).succeeds().out

    def returns(printed):
        return [
            line.split("return ")[1].split(" ")[0].strip(",") for line in printed.splitlines()[:2]
        ]

    assert returns(adapted) == returns(rendered)
    path = small_run / "videos" / "point-2.mp4"
    assert str(path) in rendered and path.stat().st_size > 1000


def test_a_strip_and_deterministic_actions_can_be_asked_for(meta_rl, small_run, tmp_path):
    output = tmp_path / "strip.png"
    words = ["--actions", "deterministic", "--output", output]

    first = meta_rl("render", small_run, "--task", "point", *words).succeeds().out
    again = meta_rl("render", small_run, "--task", "point", "--seed", 1, *words).succeeds().out

    assert first.splitlines()[0] == again.splitlines()[0]  # before adaptation there is no chance
    with Image.open(output) as shown:
        assert shown.size == (4 * 220, 2 * (26 + 220))


def test_what_the_user_can_get_wrong(meta_rl, small_run):
    render = ["render", small_run, "--task"]
    meta_rl(*render, "pint").fails_with("no task 'pint'", "did you mean 'point'")
    meta_rl(*render, "point", "--goal", 99).fails_with("no goal 99")
    meta_rl(*render, "point", "--rounds", 0).fails_with("--rounds must be at least 1")
    meta_rl(*render, "point", "--output", "film.avi").fails_with(".mp4", ".png", "film.avi")
    meta_rl(*render, "point", "--output", "/proc/film.mp4").fails_with("cannot write", "--output")

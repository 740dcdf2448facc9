"""Films of a policy before and after it adapts to a task, as mp4 or as a strip of pictures."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from meta_rl.core.continual import simulated
from meta_rl.core.errors import UserError
from meta_rl.core.lives import changes_of, changing_env
from meta_rl.core.outputs import check_replaceable, writing
from meta_rl.core.protocols import DrawingTaskEnv, TaskDistribution, TaskEnv
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Phase, Picture, Step, Tasks
from meta_rl.rollouts.adaptation import Adaptation
from meta_rl.rollouts.collector import RolloutCollector
from meta_rl.runs.trained import TrainedAgent

PICTURES_PER_EPISODE = 125
"""How many pictures an episode of full length gets, about."""
FRAMES_PER_SECOND = 20
"""At that rate, 125 pictures show 500 steps of 1/80 s each in their own time."""
HOLD_S = 1.0
"""How long the last pictures stay, in seconds."""
FONT_SIZE, LINE, MARGIN = 18, 26, 10
"""Of the text, in pixels."""
LEAST_WIDTH = 320
"""Width of a picture in pixels that has room for what is written above it."""
BACKGROUND, TEXT, QUIET, GOOD = "white", "black", "dimgrey", "green"


@dataclass(frozen=True)
class Moment:
    """A picture of an episode, and what had happened when it was taken."""

    picture: Picture
    steps: int
    """Steps of the episode that had been taken."""
    return_so_far: float
    success: bool | None
    """Whether any step had succeeded; None where no step has told."""


@dataclass(frozen=True)
class Take:
    """One filmed episode, from its beginning to its end."""

    learned_from: int
    """Episodes of the task that the policy had learned from."""
    moments: tuple[Moment, ...]

    @property
    def caption(self) -> str:
        """Which stage of adaptation it shows."""
        if self.learned_from == 0:
            return "before adaptation"
        return f"after {self.learned_from} episode{'s' if self.learned_from > 1 else ''}"


class FilmedEnv:
    """A simulator whose first world is filmed through the first episode after each `start`."""

    def __init__(self, env: DrawingTaskEnv, every: int) -> None:
        self._env = env
        self._every = every
        self.moments: list[Moment] = []

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Start the worlds and take the first picture."""
        obs = self._env.start(tasks, copies, seed)
        self.moments = []
        self._steps, self._return, self._rolling = 0, 0.0, True
        self._success: bool | None = None
        self._take_picture()
        return obs

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Step the worlds; take a picture every so many steps, and at the episode's end."""
        step = self._env.step(action)
        if self._rolling:
            self._steps += 1
            self._return += float(step.reward[0, 0])
            told = float(step.metrics["success"][0, 0]) if "success" in step.metrics else math.nan
            if not math.isnan(told):  # as it is of an environment that does not say
                self._success = bool(self._success) or told > 0
            self._rolling = not (step.terminated | step.truncated)[0, 0]
            if self._steps % self._every == 0 or not self._rolling:
                self._take_picture()
        return step

    def reset_ended(self) -> Float[Tensor, "M N O"]:
        """Begin new episodes, which are not filmed, unless the first task has changed at once."""
        obs = self._env.reset_ended()
        if self._steps == 0:
            self.moments = []
            self._take_picture()
        return obs

    @property
    def changes_within_episodes(self) -> bool:
        """As the simulator that is filmed."""
        return bool(getattr(self._env, "changes_within_episodes", False))

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Turn worlds into other tasks."""
        changing_env(self._env).change(worlds, tasks)

    def close(self) -> None:
        """Close the simulator."""
        self._env.close()

    def _take_picture(self) -> None:
        self.moments.append(Moment(self._env.draw(), self._steps, self._return, self._success))


def film_adaptation(
    trained: TrainedAgent,
    tasks: Tasks,
    rounds: int = 1,
    episodes: int | None = None,
    actions: Literal["sampled", "deterministic"] = "sampled",
    seed: int = 0,
) -> list[Take]:
    """Film one episode at each stage of adaptation.

    With sampled actions and the same seed the episodes are those that `meta-rl adapt` plays: the
    first of each round, and the one that follows the last.

    Args:
        tasks: The one task.
        rounds: Times the agent adapts.
        episodes: Episodes to learn from in each round; None means as many as in training.
        actions: Film actions drawn from the policy, or its mode. It learns from drawn ones.
        seed: Seed of the actions' noise.
    """
    distribution, device = simulated(trained.distribution), trained.device
    episodes = episodes or trained.adaptation_episodes
    env = distribution.make_env(device, workers=1)
    try:
        filmed, changes = filming(env, distribution), changes_of(distribution)
        unseen = RolloutCollector(distribution.spec, env, device, changes)
        seen = RolloutCollector(distribution.spec, filmed, device, changes)
        deterministic = actions == "deterministic"
        streams = Streams(seed, device, purpose="adapt")
        adaptation = Adaptation(trained.agent, seen, tasks, 1, streams)
        takes = []
        for stage in range(rounds + 1):
            last = stage == rounds
            learned_from = adaptation.episodes
            if deterministic or last:
                adaptation.collector = seen
                adaptation.measure(Phase(1), deterministic=deterministic)
            if not last:
                adaptation.collector = unseen if deterministic else seen
                adaptation.play(Phase(episodes))
                adaptation.learn()
            takes.append(Take(learned_from, tuple(filmed.moments)))
        return takes
    finally:
        env.close()


def filming(env: TaskEnv, distribution: TaskDistribution) -> FilmedEnv:
    """Return a distribution's simulator, filmed."""
    if not isinstance(env, DrawingTaskEnv):
        raise UserError(
            f"the family {distribution.family} cannot be filmed: its simulator "
            f"{type(env).__name__} has no draw(), which returns a picture of the first world"
        )
    return FilmedEnv(env, every=math.ceil(distribution.spec.horizon / PICTURES_PER_EPISODE))


def title(trained: TrainedAgent, tasks: Tasks) -> str:
    """Return what a film of one task is called."""
    (task,) = tasks
    return f"{trained.experiment.name}, {task.name}, goal {task.index}"


def check_ending(path: Path) -> None:
    """Raise a UserError unless a film can be written to a file of that name."""
    if path.suffix not in (".mp4", ".png"):
        raise UserError(f"a film is an .mp4, or a .png strip of pictures, not {path.name!r}")


def check_film(path: Path, advice: str) -> None:
    """Raise a UserError unless a film can be written to that file; leave nothing behind."""
    check_ending(path)
    check_replaceable(advice, path)


def write_film(takes: Sequence[Take], path: Path, name: str) -> Path:
    """Write a film and return its path.

    Args:
        path: An `.mp4`, whose takes play side by side in step, or a `.png` of a few pictures.
    """
    check_ending(path)
    with writing(path, "choose another --output"):
        # Its ending tells ffmpeg what to write.
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
        temporary.touch()  # ffmpeg would not tell clearly that it cannot write
        try:
            if path.suffix == ".png":
                strip(takes).save(temporary)
            else:
                _write_mp4(frames(takes, name), temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def frames(takes: Sequence[Take], name: str) -> list[Picture]:
    """Return the film's frames: the takes side by side, those that ended early waiting."""
    length = max(len(take.moments) for take in takes)
    film = [
        frame(takes, [take.moments[min(at, len(take.moments) - 1)] for take in takes], name)
        for at in range(length)
    ]
    return film + film[-1:] * round(HOLD_S * FRAMES_PER_SECOND)


def frame(takes: Sequence[Take], moments: Sequence[Moment], name: str) -> Picture:
    """Return one frame: a picture of each take, with what had happened written above it."""
    # Small pictures are enlarged, so that there is room for the words.
    times = max(1, math.ceil(LEAST_WIDTH / moments[0].picture.shape[1]))
    pictures = [moment.picture.repeat(times, axis=0).repeat(times, axis=1) for moment in moments]
    height, width, _ = pictures[0].shape
    header = 3 * LINE + 2 * MARGIN
    canvas = Image.new("RGB", (_even(width * len(takes)), _even(header + height)), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    font, bold = ImageFont.load_default(FONT_SIZE), ImageFont.load_default(FONT_SIZE + 4)
    pen.text((MARGIN, MARGIN), name, fill=QUIET, font=font)
    for number, (take, moment) in enumerate(zip(takes, moments, strict=True)):
        left, top = number * width, MARGIN + LINE
        canvas.paste(Image.fromarray(pictures[number]), (left, header))
        pen.text((left + MARGIN, top), take.caption, fill=TEXT, font=bold)
        told = f"step {moment.steps}   return {moment.return_so_far:.1f}"
        pen.text((left + MARGIN, top + LINE), told, fill=QUIET, font=font)
        if moment.success is not None:
            told, color = ("success", GOOD) if moment.success else ("no success yet", QUIET)
            right = left + width - MARGIN
            pen.text((right, top + LINE), told, fill=color, font=font, anchor="ra")
    return np.asarray(canvas)


def strip(takes: Sequence[Take], columns: int = 4, width: int = 220) -> Image.Image:
    """Return a picture of pictures: a row for each take, from its beginning to its end."""
    first = Image.fromarray(takes[0].moments[0].picture)
    size = width, round(width * first.height / first.width)
    canvas = Image.new("RGB", (columns * width, len(takes) * (LINE + size[1])), BACKGROUND)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE - 4)
    for number, take in enumerate(takes):
        top = number * (LINE + size[1])
        for column in range(columns):
            moment = take.moments[round(column * (len(take.moments) - 1) / (columns - 1))]
            left = column * width
            small = Image.fromarray(moment.picture).resize(size, Image.Resampling.LANCZOS)
            canvas.paste(small, (left, top + LINE))
            told = f"step {moment.steps}, return {moment.return_so_far:.0f}"
            pen.text((left + 5, top + 4), told if column else take.caption, fill=TEXT, font=font)
            if moment.success:
                pen.text((left + width - 5, top + 4), "success", fill=GOOD, font=font, anchor="ra")
    return canvas


def _write_mp4(film: Sequence[Picture], path: Path) -> None:
    height, width, _ = film[0].shape
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=FRAMES_PER_SECOND, macro_block_size=2
    )
    try:
        writer.send(None)
        for each in film:
            writer.send(np.ascontiguousarray(each))
    finally:
        writer.close()


def _even(pixels: int) -> int:
    """Return the even number not below: H.264 halves the resolution of colours."""
    return pixels + pixels % 2

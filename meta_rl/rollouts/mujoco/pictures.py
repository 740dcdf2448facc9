"""Pictures of worlds, drawn from their states by an environment of their task."""

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from meta_rl.core.types import Picture, Task


class PictureMaker(Protocol):
    """An environment of one task that draws any state of it.

    It is one of its own: a scene's environment is for snapshots, whose resets change its model.
    """

    def draw(self, state: NDArray[Any]) -> Picture:
        """Return a picture of the world that has this state; what follows the state is ignored."""
        ...

    def close(self) -> None:
        """Release what MuJoCo draws with."""
        ...


class Pictures:
    """Draws worlds, and keeps the maker as long as the task stays.

    Args:
        make: Makes the picture maker of a task.
    """

    def __init__(self, make: Callable[[Task], PictureMaker]) -> None:
        self._make = make
        self._task: Task | None = None
        self._maker: PictureMaker | None = None

    def draw(self, task: Task, state: NDArray[Any]) -> Picture:
        """Return a picture of a task's world that has this state."""
        if self._maker is None or self._task != task:
            self.close()
            self._task, self._maker = task, self._make(task)
        return self._maker.draw(state)

    def close(self) -> None:
        """Release the maker."""
        if self._maker is not None:
            self._maker.close()
            self._maker = None

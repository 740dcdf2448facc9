"""Shared memory as tensors, page-locked where a GPU copies from it."""

import logging
from typing import Any

import torch
from torch import Tensor

from meta_rl.rollouts.gymnasium.worker import (
    Block,
)

logger = logging.getLogger(__name__)


class Staging:
    """The shared memory as tensors, page-locked where a GPU copies from it."""

    def __init__(self, block: Block, device: torch.device) -> None:
        self.block = block
        self.rows = torch.from_numpy(block.rows)
        self.actions = torch.from_numpy(block.actions)
        self._device = device
        self._copied = _cuda_event() if device.type == "cuda" else None
        self._locked = device.type == "cuda" and self._lock_pages()

    def to_device(self) -> Tensor:
        """Return a copy of the rows on the device, without waiting for it."""
        rows = self.rows.to(self._device, non_blocking=True, copy=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device))
        return rows

    def wait(self) -> None:
        """Wait until all copies are done."""
        if self._copied is not None:
            self._copied.synchronize()

    def release(self) -> None:
        """Unlock the pages; the memory itself goes with the last reference."""
        self.wait()
        if self._locked:
            _cudart().cudaHostUnregister(self._address)
            self._locked = False

    @property
    def _address(self) -> int:
        return int(self.block.current.ctypes.data)

    def _lock_pages(self) -> bool:
        """Page-lock the memory and return whether that worked; it only makes copies faster."""
        size_bytes = self.block.layout.size_bytes
        error = _cudart().cudaHostRegister(self._address, size_bytes, 0)
        if int(error) != 0:
            logger.info("cannot page-lock %d bytes: CUDA error %s", size_bytes, error)
        return int(error) == 0


def _cuda_event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]

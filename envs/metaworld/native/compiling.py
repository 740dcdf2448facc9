"""Compiles task and engine code with numba, and keeps the result on disk."""

import contextlib
import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Row: TypeAlias = Any
"""A row of numbers that task code indexes with the names of `row`."""

RowPointer = types.CPointer(types.float64)
OPTIONS = {"error_model": "numpy", "cache": True}  # a division by zero gives inf, as in metaworld


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that task code or the engine calls."""
    with _cache_on_disk():
        return numba.njit(nogil=True, **OPTIONS)(_plain(function))


def callback(function: Callable[..., None], rows: int) -> Any:
    """Compile a function of so many rows; the engine calls it at its `address`."""
    signature = types.void(*[RowPointer] * rows)
    with _cache_on_disk():
        return numba.cfunc(signature, **OPTIONS)(_plain(function))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function without the type checks that tests wrap around it."""
    return inspect.unwrap(function)


@contextlib.contextmanager
def _cache_on_disk() -> Iterator[None]:
    """Let numba cache in a folder that changes with the code that all tasks share.

    numba itself notices only changes of the very file that a function is in.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder())
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


@cache
def cache_folder() -> Path:
    """Return where compiled code is kept."""
    here = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(here.glob("*.py")):
        digest.update(source.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "meta_rl" / "compiled" / digest.hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="meta_rl_compiled_"))
    return folder


@intrinsic
def read_double(_typing: Any, address: Any) -> Any:
    """Return the double at an address."""
    return types.float64(types.intp), _reader(types.float64)


@intrinsic
def read_int32(_typing: Any, address: Any) -> Any:
    """Return the 32-bit integer at an address."""
    return types.int32(types.intp), _reader(types.int32)


@intrinsic
def read_address(_typing: Any, address: Any) -> Any:
    """Return the pointer at an address."""
    return types.intp(types.intp), _reader(types.intp)


@intrinsic
def write_double(_typing: Any, address: Any, value: Any) -> Any:
    """Write a double to an address."""
    return types.void(types.intp, types.float64), _writer


@intrinsic
def write_int32(_typing: Any, address: Any, value: Any) -> Any:
    """Write a 32-bit integer to an address."""
    return types.void(types.intp, types.int32), _writer


@intrinsic
def multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""
    return types.float64(types.float64, types.float64, types.float64), _multiply_adder


@intrinsic
def take_number(_typing: Any, address: Any) -> Any:
    """Return the 64-bit integer at an address and add 1 to it, as one step among all threads."""
    return types.int64(types.intp), _taker


@intrinsic
def call_with_row(_typing: Any, function: Any, row: Any) -> Any:
    """Call the compiled function at an address with a row."""
    return types.void(types.intp, types.intp), _caller


@intrinsic
def call_with_rows(_typing: Any, function: Any, row: Any, out: Any) -> Any:
    """Call the compiled function at an address with two rows."""
    return types.void(types.intp, types.intp, types.intp), _caller


def _reader(kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = context.get_value_type(kind).as_pointer()
        return builder.load(builder.inttoptr(arguments[0], pointer))

    return generate


def _writer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    address, value = arguments
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    return context.get_dummy_value()


def _multiply_adder(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fma(*arguments)


def _taker(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    one = ir.Constant(ir.IntType(64), 1)
    pointer = builder.inttoptr(arguments[0], one.type.as_pointer())
    return builder.atomic_rmw("add", pointer, one, "monotonic")


def _caller(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    row = ir.DoubleType().as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [row] * (len(arguments) - 1))
    function = builder.inttoptr(arguments[0], kind.as_pointer())
    builder.call(function, [builder.inttoptr(each, row) for each in arguments[1:]])
    return context.get_dummy_value()

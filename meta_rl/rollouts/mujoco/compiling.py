"""Compiles task and engine code with numba, and keeps the result on disk."""

import ast
import contextlib
import hashlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import mujoco
import numba
from llvmlite import ir
from numba import extending, types

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@runtime_checkable
class Row(Protocol):
    """Numbers in double precision that compiled code indexes: a world's row, say."""

    def __getitem__(self, place: int, /) -> float: ...
    def __setitem__(self, place: int, number: float, /) -> None: ...


Action: TypeAlias = Any
"""An action in single precision, as compiled code indexes it."""
Addresses: TypeAlias = Any
"""Addresses and whole numbers, 64 bits each, as compiled code indexes them."""
Integers: TypeAlias = Any
"""Whole numbers, as compiled code indexes them."""

_pointer: Any = types.CPointer
ROW = _pointer(types.float64)
ACTION = _pointer(types.float32)
ADDRESSES = _pointer(types.int64)
ACT = (ADDRESSES, ROW, ACTION)
"""The arguments of a scene's `act`: its addresses, its numbers and the action."""
OBSERVE = (ADDRESSES, ROW, ACTION, ROW)
"""The arguments of a scene's `observe`: those of `act`, and the row that it writes."""
REWARD = (ROW, ROW)
"""The arguments of a scene's `reward`: the row, and the outputs that it writes."""

OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "cache": True,
}  # a division by zero gives inf, as in numpy


def compiled(function: FunctionT) -> FunctionT:
    """Compile a function that task code or the engine calls."""
    with _cache_on_disk(function):
        dispatcher: FunctionT = numba.njit(nogil=True, **OPTIONS)(_plain(function))
    return dispatcher


def callback(function: Callable[..., None], kinds: tuple[Any, ...]) -> Any:
    """Compile a function that the engine calls at its `address`.

    Args:
        kinds: What its arguments are: `ACT`, `OBSERVE`, `REWARD`, or a tuple of `ROW` and the like.
    """
    with _cache_on_disk(function):
        return numba.cfunc(types.void(*kinds), **OPTIONS)(_plain(function))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function without the type checks that tests wrap around it."""
    plain: Callable[..., Any] = inspect.unwrap(function)
    return plain


@contextlib.contextmanager
def _cache_on_disk(function: Callable[..., Any]) -> Iterator[None]:
    """Let numba cache in a folder that changes with all code that a function may depend on.

    numba itself notices only changes of the very file that a function is in. MuJoCo's version
    counts because its numbers, such as what makes up a state, are compiled in.
    """
    digest = hashlib.sha256(f"{numba.__version__} {mujoco.__version__}".encode())
    for source in sorted(_sources(_plain(function).__module__)):
        digest.update(_digest(source))
    folder = cache_root() / digest.hexdigest()[:12]
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


@cache
def cache_root() -> Path:
    """Return the folder that compiled code is kept in."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "meta_rl" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="meta_rl_compiled_"))
    return folder


def _sources(module: str) -> set[Path]:
    """Return the files of a module and of what it imports, and those import, of its own package.

    Of the kernel, only this package counts: no more of it is ever compiled.
    """
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in found or file is None:
            continue
        found[name] = Path(file)
        own = {__package__, name.partition(".")[0]} - {__package__.partition(".")[0]}
        pending += [
            other
            for other in _imports(found[name])
            if any(f"{other}.".startswith(f"{package}.") for package in own)
        ]
    return set(found.values())


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return what a file imports, by whole names, whether these are modules or not."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return frozenset(names)


@cache
def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def intrinsic(function: Callable[..., Any]) -> Any:
    """Return what compiled code calls by the signature and code that a function returns."""
    return extending.intrinsic(function)


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
def address_of(_typing: Any, row: Any) -> Any:
    """Return the address of what a compiled function got as a row, an action or addresses."""
    return types.intp(row), _addresser


@intrinsic
def multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""
    return types.float64(types.float64, types.float64, types.float64), _multiply_adder


@intrinsic
def take_number(_typing: Any, address: Any) -> Any:
    """Return the 64-bit integer at an address and add 1 to it, as one step among all threads."""
    return types.int64(types.intp), _taker


@intrinsic
def call_with_1(_typing: Any, function: Any, a: Any) -> Any:
    """Call the compiled function at an address with a pointer."""
    return types.void(types.intp, types.intp), _caller


@intrinsic
def call_with_2(_typing: Any, function: Any, a: Any, b: Any) -> Any:
    """Call the compiled function at an address with two pointers."""
    return types.void(*[types.intp] * 3), _caller


@intrinsic
def call_with_3(_typing: Any, function: Any, a: Any, b: Any, c: Any) -> Any:
    """Call the compiled function at an address with three pointers."""
    return types.void(*[types.intp] * 4), _caller


@intrinsic
def call_with_4(_typing: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Call the compiled function at an address with four pointers."""
    return types.void(*[types.intp] * 5), _caller


def _reader(kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = context.get_value_type(kind).as_pointer()
        return builder.load(builder.inttoptr(arguments[0], pointer))

    return generate


def _writer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    address, value = arguments
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    return context.get_dummy_value()


def _addresser(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.ptrtoint(arguments[0], context.get_value_type(types.intp))


def _multiply_adder(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fma(*arguments)


def _taker(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    one = ir.Constant(ir.IntType(64), 1)
    pointer = builder.inttoptr(arguments[0], one.type.as_pointer())
    return builder.atomic_rmw("add", pointer, one, "monotonic")


def _caller(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    pointer = ir.IntType(8).as_pointer()  # one kind stands for all: the callee knows its own
    kind = ir.FunctionType(ir.VoidType(), [pointer] * (len(arguments) - 1))
    function = builder.inttoptr(arguments[0], kind.as_pointer())
    builder.call(function, [builder.inttoptr(each, pointer) for each in arguments[1:]])
    return context.get_dummy_value()

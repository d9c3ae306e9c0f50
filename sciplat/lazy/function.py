"""What a plan records of a user's function: where to import it from, and a digest of all that it computes with.

The digest is the same in every process. It covers instructions (without the ones that only mark lines), constants,
names, defaults and closure values; of the globals that the code uses, values as they are, functions and classes of
the same module by their own digest, everything from other modules by name, and the source of those that are the
user's own. Another minor version of Python has other instructions, hence another digest.
"""

import bisect
import copyreg
import dis
import functools
import hashlib
import importlib
import inspect
import io
import pickle
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import cloudpickle
import numpy as np

from sciplat.errors import ArgumentError, PlanChanged
from sciplat.lazy.own_code import own_digest


def function_record(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a plan keeps of a function.

    Parameters
    ----------
    function : callable
        A function, method, class, `functools.partial`, or an object that can be called.

    Returns
    -------
    dict
        JSON values. `import`: "module:qualname", or None if a fresh process could not import it; `name`: for people;
        `digest`: hexadecimal SHA-256, which changes with the code and with every value that the code uses.

    Raises
    ------
    ArgumentError
        If it holds or uses a value that has no lasting form, such as a lock or an open file.
    """
    try:
        digest = _Walk(_home(function), _name(function)).digest(function)
    except RecursionError:
        what = f"the function {_name(function)} cannot be recorded"
        raise ArgumentError(what, found="values nested too deeply", hint="hold arrays or flat lists") from None
    return {"import": _lasting_path(function), "name": _name(function), "digest": digest.hex()}


def check_sendable(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot travel to a worker.

    Raises
    ------
    ArgumentError
        If it holds something that belongs to this process: a lock, an open file, a connection.
    """
    if cause := _obstacle(function):
        held = _held_values(function)
        culprits = [f"{name} = {reprlib.repr(value)}: " for name, value in held.items() if _obstacle(value)]
        raise ArgumentError(
            f"the function {_name(function)} cannot be sent to a worker",
            found=f"{''.join(culprits[:1])}{cause}",
            hint="open it inside the function",
        )


def load_function(record: Mapping[str, Any]) -> Callable[..., Any]:
    """Import the function that a plan recorded.

    Parameters
    ----------
    record : mapping
        As `function_record` returned it.

    Raises
    ------
    PlanChanged
        If it cannot be imported, or is not the function it was.
    """
    path, name = record.get("import"), record.get("name")
    if path is None:
        raise PlanChanged(
            f"the function {name} of the plan cannot be imported",
            found="it was defined in a notebook or script, inside another function, or is an object",
            hint="put it into a module",
        )
    found = _import(path, f"the function {name} of the plan cannot be imported")
    if function_record(found)["digest"] != record.get("digest"):
        raise PlanChanged(
            f"the function {name} is not the one of the plan",
            found=f"the code of {path}, or a value it uses, has changed since",
            hint="bring back the old code, or run the plan anew",
        )
    return found


def _import(path: Any, what: str) -> Callable[..., Any]:
    module, _, qualname = path.partition(":") if isinstance(path, str) else ("", "", "")
    parts = qualname.split(".")
    if not all(part.isidentifier() for part in (*module.split("."), *parts)):
        raise PlanChanged(what, found=reprlib.repr(path), hint="module:name")
    try:
        found = functools.reduce(getattr, parts, importlib.import_module(module))
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a module may raise anything while it is imported
        found_instead = f"{path}: {type(error).__name__}: {error}"
        raise PlanChanged(what, found=found_instead, hint="install the module, or put it on PYTHONPATH") from None
    if not callable(found):
        raise PlanChanged(what, found=f"{path} is {reprlib.repr(found)}, which cannot be called")
    return found


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        """Refuse open files: cloudpickle would send the whole content of a text file along."""
        if isinstance(obj, io.IOBase):
            raise pickle.PicklingError(f"an open file: {obj!r}")
        return super().reducer_override(obj)


def _obstacle(value: Any) -> str:
    """Return why a value cannot be pickled; empty if it can."""
    try:
        _Pickler(io.BytesIO()).dump(value)
    except Exception as error:  # noqa: BLE001  # a foreign class may raise anything
        return str(error) or type(error).__name__
    return ""


def _held_values(function: Callable[..., Any]) -> dict[str, Any]:
    if not isinstance(function, FunctionType):
        return {}
    names = inspect.getclosurevars(function)
    return {**names.nonlocals, **names.globals}


def _name(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return f"partial of {_name(function.func)}"
    return str(getattr(function, "__qualname__", None) or f"{type(function).__qualname__} object")


def _home(function: Any) -> str | None:
    """Return the module whose functions and classes are followed; an object has its class's."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__module__", None)


def _path(value: Any) -> str | None:
    """Return "module:qualname" if that is this very object in this process."""
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    found = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    same = found == value if isinstance(value, MethodType) else found is value  # methods are bound at each look-up
    return f"{module}:{qualname}" if same else None


def _lasting_path(value: Any) -> str | None:
    """Return "module:qualname" if a fresh process can import it."""
    path = _path(value)
    module = path.partition(":")[0] if path else "__main__"
    importable = module != "__main__" and getattr(sys.modules[module], "__spec__", None) is not None
    return path if importable else None


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"",
    type(...): lambda _: b"",
    type(NotImplemented): lambda _: b"",
    bool: lambda value: b"%d" % value,
    int: lambda value: hex(value).encode(),
    float: lambda value: value.hex().encode(),
    complex: lambda value: repr(value).encode(),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: bytes,
}
_OF_THE_MODULE = {"__file__", "__cached__", "__spec__", "__loader__", "__path__"}  # where it lies, not what it does
_NOT_OF_THE_CLASS = (GetSetDescriptorType, MemberDescriptorType)  # made for __dict__ and __slots__


class _Walk:
    """One walk over all that a function computes with.

    A value that was met before counts as its place in the order of the walk, so that cycles end, and functions that
    call each other are walked once.
    """

    def __init__(self, home: str | None, name: str, seen: dict[int, tuple[int, Any]] | None = None) -> None:
        self.home = home
        self.name = name
        self.seen = dict(seen or {})  # holds the values, or their ids could be given to others
        # never by place: the compiler shares equal constants, and methods are made at each look-up
        self.by_value: dict[type, Callable[[Any], bytes]] = {
            tuple: self._items,
            frozenset: self._set,
            CodeType: self._code,
            MethodType: self._method,
        }

    def digest(self, value: Any) -> bytes:
        """Return the SHA-256 of a value with all below it."""
        kind = type(value)
        if kind in _ATOMS:
            return _hash(kind.__name__, _ATOMS[kind](value))
        if kind in self.by_value:
            return self.by_value[kind](value)
        if path := self._foreign(value):
            return _hash("name", path.encode(), own_digest(path.partition(":")[0]))
        if id(value) in self.seen:
            return _hash("seen", b"%d" % self.seen[id(value)][0])
        self.seen[id(value)] = len(self.seen), value
        return self._compound(value)

    def _foreign(self, value: Any) -> str | None:
        """Return the name of what comes from another module."""
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, type) and not _is_defined_here(value, self.home):
            return f"{value.__module__}:{value.__qualname__}"
        return None if getattr(value, "__module__", None) == self.home else _path(value)

    def _compound(self, value: Any) -> bytes:
        known: dict[type, Callable[[Any], bytes]] = {
            FunctionType: self._function,
            np.ndarray: self._array,
            list: self._items,
            dict: self._dict,
            set: self._set,
        }
        kind = type(value)
        if kind in known:
            return known[kind](value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, (set, frozenset)):
            return _hash("members", self.digest(kind), self._set(value))
        if kind.__module__.partition(".")[0] == "numba" and hasattr(value, "__wrapped__"):
            options = getattr(value, "targetoptions", None)  # fastmath, for example, changes results
            return _hash("numba", self.digest(kind), self.digest(options), self.digest(value.__wrapped__))
        return self._object(value)

    def _items(self, values: tuple[Any, ...] | list[Any]) -> bytes:
        return _hash(type(values).__name__, *map(self.digest, values))

    def _dict(self, values: dict[Any, Any]) -> bytes:
        return _hash("dict", *(self._items(item) for item in values.items()))

    def _set(self, values: set[Any] | frozenset[Any]) -> bytes:
        """Digest the members one by one, each as if it were met first, and order the digests."""
        members = (_Walk(self.home, self.name, self.seen).digest(value) for value in values)
        return _hash(type(values).__name__, *sorted(members))

    def _method(self, method: MethodType) -> bytes:
        return _hash("method", self.digest(method.__func__), self.digest(method.__self__))

    def _function(self, function: FunctionType) -> bytes:
        code = function.__code__
        # a wrapper that a decorator of another module made: its own globals belong to that module
        variables = function.__globals__ if function.__globals__.get("__name__") == self.home else {}
        names = sorted({name for name in _global_names(code) if name in variables} - _OF_THE_MODULE)
        cells = (self._cell(cell) for cell in function.__closure__ or ())
        return _hash(
            "function",
            self.digest(code),
            self.digest((function.__defaults__, function.__kwdefaults__)),
            *cells,
            *(self.digest((name, variables[name])) for name in names),
        )

    def _cell(self, cell: Any) -> bytes:
        try:
            value = cell.cell_contents
        except ValueError:  # nothing was assigned yet
            return _hash("cell")
        return _hash("cell", self.digest(value))

    def _code(self, code: CodeType) -> bytes:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return _hash("code", self.digest((counts, names, code.co_consts, *_instructions(code))))

    def _class(self, cls: type) -> bytes:
        members = (
            self.digest((name, _member(member)))
            for name, member in sorted(vars(cls).items())
            if not isinstance(member, _NOT_OF_THE_CLASS) and _is_written(name, member)
        )
        return _hash("class", self.digest(cls.__bases__), *members)

    def _array(self, array: np.ndarray[Any, Any]) -> bytes:
        head = self.digest((repr(array.dtype), array.shape))
        if array.dtype.hasobject:
            return _hash("array", head, self.digest(array.tolist()))
        if array.dtype.names:  # by fields: between them may lie bytes without meaning
            return _hash("array", head, *(self.digest(array[name]) for name in array.dtype.names))
        return _hash("array", head, array.tobytes())

    def _object(self, value: Any) -> bytes:
        """Follow what pickle would write, not its bytes: those depend on which equal strings are one object."""
        kind = type(value)
        try:
            reduced = _reduce(value)
        except Exception as error:  # noqa: BLE001  # a foreign class may raise anything
            raise ArgumentError(
                f"the function {self.name} cannot be recorded",
                found=f"it uses {reprlib.repr(value)}: {error}",
                hint="make or open it inside the function",
            ) from None
        if isinstance(reduced, str):  # a name in a module; a cache around a function stands for that function
            inner = getattr(value, "__wrapped__", None)
            module = getattr(value, "__module__", kind.__module__)
            return _hash("name", f"{module}:{reduced}".encode(), self.digest(inner))
        rebuild, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        parts = (rebuild, arguments, _state(kind, state), list(items or ()), list(pairs or ()))
        return _hash("object", *map(self.digest, parts))


def _hash(kind: str, *parts: bytes) -> bytes:
    total = hashlib.sha256()
    for part in (kind.encode(), *parts):
        total.update(b"%d:" % len(part))
        total.update(part)
    return total.digest()


def _global_names(code: CodeType) -> Iterator[str]:
    """Yield the names that the code, and the code inside it, looks up in its module."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _instructions(code: CodeType) -> tuple[Any, ...]:
    """Return what the code does, and where exceptions lead.

    Without the NOPs that the compiler leaves for lines without any other instruction; jumps count instructions.
    """
    kept = [each for each in dis.get_instructions(code) if each.opname not in {"NOP", "EXTENDED_ARG", "CACHE"}]
    offsets = [each.offset for each in kept]
    jumps = {*dis.hasjrel, *dis.hasjabs}

    def place(offset: int) -> int:
        return bisect.bisect_left(offsets, offset)

    done = tuple((each.opname, place(each.argval) if each.opcode in jumps else each.arg) for each in kept)
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # not known to typeshed
    caught = tuple((place(e.start), place(e.end), place(e.target), e.depth, e.lasti) for e in entries)
    return done, caught


def _is_defined_here(cls: type, home: str | None) -> bool:
    in_python = bool(cls.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE
    return in_python and (cls.__module__ == home or "<locals>" in cls.__qualname__)


def _is_written(name: str, member: Any) -> bool:
    """Return whether a member of a class is part of what it does, not of what Python notes about it."""
    if name.startswith("__") and name.endswith("__"):
        return callable(member) or isinstance(member, (staticmethod, classmethod, property))
    return name != "_abc_impl"


def _member(member: Any) -> Any:
    if isinstance(member, (staticmethod, classmethod)):
        return type(member).__name__, member.__func__
    if isinstance(member, property):
        return "property", member.fget, member.fset, member.fdel
    if isinstance(member, functools.cached_property):
        return "cached_property", member.func
    return member


def _reduce(value: Any) -> Any:
    reducer = copyreg.dispatch_table.get(type(value))
    return reducer(value) if reducer else value.__reduce_ex__(4)


def _state(cls: type, state: Any) -> Any:
    """Return an object's attributes in the order of their names, without those that were computed from the others."""
    if type(state) is not dict or not all(isinstance(name, str) for name in state):
        return state
    computed = {name for name in state if isinstance(getattr(cls, name, None), functools.cached_property)}
    return {name: state[name] for name in sorted(state.keys() - computed)}

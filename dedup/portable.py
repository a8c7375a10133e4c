"""Pickles of a class that load where this library is not installed.

A pickle stores a class as the name of its module. One of `dumps` stores source: of that module and
of the modules of this library that it imports. Loading it creates them under names of their own,
beside another version of the library, if one is installed.
"""

import inspect
import json
import pickle
import re
import sys
import zlib
from hashlib import sha256
from typing import Any

_IMPORT = re.compile(r"^from (dedup[\w.]*) import", re.M)  # at the beginning of a line: at run time


def dumps(cls: type) -> bytes:
    """Return the pickle. `pickle.loads` and `dill.loads` make the class of it.

    The other Python must be one that the library supports; it may be another version than this.

    Args:
        cls: A class whose module imports from this library only by `from ... import`, and from
            others only what the other process has.
    """
    sources = _sources(cls.__module__, {})
    root = "_" + sha256(json.dumps(sources).encode()).hexdigest()[:12]
    renamed = {
        f"{root}.{name}": _IMPORT.sub(rf"from {root}.\1 import", source)
        for name, source in sources.items()
    }
    packed = zlib.compress(json.dumps(renamed).encode(), 9)
    return pickle.dumps(_Carried(f"{root}.{cls.__module__}", cls.__name__, packed))


def load(module: str, name: str, packed: bytes) -> Any:
    """Return `name` of `module`, after creating the packed modules. Its own source is carried."""
    import json
    import sys
    import zlib
    from types import ModuleType

    for created, source in json.loads(zlib.decompress(packed)).items():
        if created not in sys.modules:
            sys.modules[created] = ModuleType(created)
            try:
                exec(compile(source, f"<{created}>", "exec"), sys.modules[created].__dict__)  # noqa: S102
            except BaseException:
                del sys.modules[created]
                raise
    return getattr(sys.modules[module], name)


class _Carried:
    """Object that `pickle` stores as source and a call of `load`, with nothing but builtins by name."""

    def __init__(self, module: str, name: str, packed: bytes) -> None:
        self._namespace = {
            "source": inspect.getsource(load),
            "Any": object,
            "module": module,
            "name": name,
            "packed": packed,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("exec(source) or load(module, name, packed)", self._namespace)


def _sources(name: str, found: dict[str, str]) -> dict[str, str]:
    """Add the source of a module to `found`, after those of the modules that it imports."""
    source = inspect.getsource(sys.modules[name])
    for imported in _IMPORT.findall(source):
        if imported not in found:
            _sources(imported, found)
    found[name] = source
    return found

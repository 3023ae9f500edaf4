"""What is declared of one kind: by modules of a package, by packages of one's own, and elsewhere."""

import pkgutil
from collections.abc import Callable, Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mlops.result import Failure

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

T = TypeVar("T")


class Catalog(Generic[T]):
    """Declarations by name. A name of the package's own is never another's.

    package: each of its modules that are not `others` declares one as `variable`. group: of the entry points by which
    packages of one's own declare theirs. named: what the declaration of a module is called.
    """

    def __init__(
        self,
        package: str,
        kind: type[T],
        variable: str,
        group: str,
        others: Collection[str],
        named: Callable[[str], str] = str,
    ) -> None:
        self._package, self._kind, self._variable, self._group = package, kind, variable, group
        self._others, self._named = others, named
        self._elsewhere: list[Callable[[str], T | None]] = []

    def names(self) -> list[str]:
        """The names of all that the package and packages of one's own declare, sorted."""
        return sorted({*self._own(), *self._packaged().names})

    def find(self, name: str) -> T | None:
        """The declaration of this name; None where there is none. Raises Failure for one that declares another."""
        module = self._own().get(name)
        if module is not None:
            declared = getattr(import_module(f"{self._package}.{module}"), self._variable, None)
            return self._checked(declared, name, f"{self._package.replace('.', '/')}/{module}.py")
        for entry in self._packaged().select(name=name):
            return self._checked(entry.load(), name, f"the entry point {entry.value} of {self._group}")
        return next((found for find in self._elsewhere if (found := find(name)) is not None), None)

    def look_elsewhere(self, find: Callable[[str], T | None]) -> None:
        """Has `find` asked for what no package declares. Of several only the last is asked."""
        self._elsewhere[:] = [find]

    def _packaged(self) -> "EntryPoints":
        """Those of packages of one's own. Imported here: it takes longer than all else that a light command imports."""
        from importlib.metadata import entry_points

        return entry_points(group=self._group)

    def _own(self) -> dict[str, str]:
        """Name -> module."""
        found = pkgutil.iter_modules(import_module(self._package).__path__)
        modules = (module.name for module in found if not module.ispkg and module.name not in self._others)
        return {self._named(module): module for module in modules}

    def _checked(self, declared: Any, name: str, place: str) -> T:
        if not isinstance(declared, self._kind) or getattr(declared, "name", None) != name:
            raise Failure(f"{place} must set {self._variable} to a {self._kind.__name__} named {name!r}")
        return declared

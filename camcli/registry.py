"""Registry: a read-only mapping that a decorator fills, with suggestions for unknown names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, overload

from camcli.errors import ConfigError, did_you_mean

T = TypeVar("T")
D = TypeVar("D")


class Registry(Mapping[str, T], Generic[T]):
    """Registered items by name. ``noun``: what they are, for messages. ``homes``: modules that register them when imported."""

    def __init__(self, noun: str, *homes: str) -> None:
        self.noun = noun
        self._homes = homes
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a function under ``name``. Raises ValueError if the name is already registered."""

        def enter(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._items[name] = item
            return item

        return enter

    def _filled(self) -> dict[str, T]:
        for home in self._homes:
            importlib.import_module(home)
        return self._items

    def __getitem__(self, name: str) -> T:
        items = self._filled()
        if name not in items:
            raise ConfigError(f"there is no {self.noun} {name!r}.{did_you_mean(name, items)} Known: {', '.join(sorted(items))}.")
        return items[name]

    @overload
    def get(self, name: str, /) -> T | None: ...

    @overload
    def get(self, name: str, /, default: T | D) -> T | D: ...

    def get(self, name: str, /, default: Any = None) -> Any:
        """What is registered under ``name``, else ``default``; the inherited method would let the ConfigError through."""
        return self._filled().get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._filled()

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())

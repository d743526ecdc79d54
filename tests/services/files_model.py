"""A model of a user's files: the obvious implementation, to compare the real one with."""

from __future__ import annotations

import copy
from typing import Any

from attrs import define, field

from penncloud.services.files import (
    ROOT,
    BadName,
    Changed,
    FilesError,
    IntoItself,
    NameTaken,
    NoSuchEntry,
    clean_name,
)


@define
class Thing:
    """A file (`data`) or a folder (`id`). `stamp` changes with every write and move."""

    data: bytes | None
    id: str
    stamp: int


@define
class Model:
    """`inside[folder id][name]`; folder ids are given by the caller."""

    inside: dict[str, dict[str, Thing]] = field(factory=lambda: {ROOT: {}})
    stamp: int = 0

    def copy(self) -> Model:
        return copy.deepcopy(self)

    def snapshot(self, folder: str = ROOT) -> dict[str, Any]:
        """The tree as nested dicts, files as their bytes."""
        return {
            name: self.snapshot(thing.id) if thing.data is None else thing.data
            for name, thing in self.inside[folder].items()
        }

    def folders(self) -> list[str]:
        return list(self.inside)

    def create_folder(self, folder: str, name: str, new_id: str) -> None:
        name = clean_name(name)
        self._check(folder)
        if name in self.inside[folder]:
            raise NameTaken.__new__(NameTaken)
        self.inside[folder][name] = Thing(None, new_id, self._next())
        self.inside[new_id] = {}

    def upload(
        self, folder: str, name: str, data: bytes, replace: int | None, keep_both: bool
    ) -> None:
        name = clean_name(name)
        self._check(folder)
        taken = self.inside[folder].get(name)
        if taken is not None and keep_both:
            stem, dot, extension = name.rpartition(".")
            stem, dot, extension = (stem, dot, extension) if stem else (name, "", "")
            number = 2
            while f"{stem} ({number}){dot}{extension}" in self.inside[folder]:
                number += 1
            name = f"{stem} ({number}){dot}{extension}"
        elif taken is not None and (replace is None or taken.data is None):
            raise NameTaken.__new__(NameTaken)
        elif taken is not None and replace != taken.stamp:
            raise Changed.__new__(Changed)
        self.inside[folder][name] = Thing(data, "", self._next())

    def move_one(
        self, folder: str, name: str, target: str, new_name: str, stamp: int | None = None
    ) -> None:
        new_name = clean_name(new_name)
        self._check(target)
        thing = self._get(folder, name, stamp)
        if folder == target and clean_name(name) == new_name:
            return
        if thing.data is None and folder != target and self._is_within(target, thing.id):
            raise IntoItself()
        if new_name in self.inside[target]:
            raise NameTaken.__new__(NameTaken)
        del self.inside[folder][clean_name(name)]
        thing.stamp = self._next()
        self.inside[target][new_name] = thing

    def delete_one(self, folder: str, name: str, stamp: int | None = None) -> None:
        thing = self._get(folder, name, stamp)
        del self.inside[folder][clean_name(name)]
        if thing.data is None:
            self._forget(thing.id)

    def _forget(self, folder: str) -> None:
        for thing in self.inside.pop(folder).values():
            if thing.data is None:
                self._forget(thing.id)

    def _get(self, folder: str, name: str, stamp: int | None) -> Thing:
        self._check(folder)
        thing = self.inside[folder].get(clean_name(name))
        if thing is None:
            raise NoSuchEntry()
        if stamp is not None and stamp != thing.stamp:
            raise Changed.__new__(Changed)
        return thing

    def _is_within(self, folder: str, ancestor: str) -> bool:
        if folder == ancestor:
            return True
        children = (thing.id for thing in self.inside[ancestor].values() if thing.data is None)
        return any(self._is_within(folder, child) for child in children)

    def _check(self, folder: str) -> None:
        if folder not in self.inside:
            raise NoSuchEntry()

    def _next(self) -> int:
        self.stamp += 1
        return self.stamp


__all__ = ["BadName", "FilesError", "Model", "Thing"]

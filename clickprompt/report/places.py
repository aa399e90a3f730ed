"""Say where runs and data lie without giving away the folders of the machine that made the report."""

import posixpath
import re
from collections.abc import Sequence
from typing import Any

import yaml

from clickprompt.report.run import Run

__all__ = ["Places"]

_UP, _DEEP = 2, 4  # most steps up from the report's folder, and most names of a relative address
_ADDRESS = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*://|(?<![\w.…/])/)(?:[^\s'\"/,;()]+/)+[^\s'\"/,;:()]*")


class Places:
    """The addresses that a report shows, seen from its own folder."""

    def __init__(self, report: str, runs: Sequence[Run], datasets: Sequence[str] = ()) -> None:
        """report: the address of the file; datasets: addresses beside those that the runs name. All are as
        `storage.native` gives them.
        """
        self._folder = posixpath.dirname(report)
        known = {*(run.uri for run in runs), *datasets}
        for run in runs:
            found = [value for value in run.config.values() if _is_address(value)]
            recorded = [(run.result.get("dataset") or {}).get("path"), run.result.get("export")]
            known.update(str(value) for value in (*found, *recorded) if value)
        self._known = sorted((address for address in known if _is_address(address)), key=len, reverse=True)

    def of(self, address: str) -> str:
        """Return an address from the report's folder, such as `../data`, or, if it lies far from there, `…/`
        and its last two names.
        """
        near = posixpath.relpath(address, self._folder) if _root(address) == _root(self._folder) else None
        if near and near.split("/").count("..") <= _UP and near.count("/") < _DEEP:
            return near
        names = [name for name in address.rstrip("/").split("://")[-1].split("/") if name]
        return "/".join(["…", *names[-2:]])

    def text(self, text: str) -> str:
        """Return a message with every address in it as `of` gives it."""
        for address in self._known:
            text = text.replace(address, self.of(address))
        return _ADDRESS.sub(lambda found: self.of(found.group()), text)

    def config(self, text: str) -> str:
        """Return a configuration's YAML with its addresses as `of` gives them."""
        values = yaml.safe_load(text)
        return yaml.safe_dump(self._walked(values), sort_keys=False, allow_unicode=True) if values else text

    def value(self, value: Any) -> Any:
        """Return a key's value, as `of` gives it if it is an address."""
        return self.of(value) if _is_address(value) else value

    def _walked(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._walked(of_key) for key, of_key in value.items()}
        if isinstance(value, list):
            return [self._walked(each) for each in value]
        return self.value(value)


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and bool(re.match(r"/[^/]|[a-zA-Z][a-zA-Z0-9+.-]*://", value))


def _root(address: str) -> str:
    """Return what addresses share that can be told from one another: the scheme and the bucket, or nothing
    for local ones.
    """
    scheme, found, rest = address.partition("://")
    return f"{scheme}://{rest.split('/')[0]}" if found else ""

"""YAML without its traps: no tags that run code, no key given twice. The only module that reads YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import yaml

from vlmprof.errors import Fault


@final
class _Loader(yaml.SafeLoader):
    """SafeLoader that notices a key given twice, which YAML forbids and PyYAML lets pass."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[Fault] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                self.twice.append(Fault(field=str(key), problem=f"given twice, on lines {seen[key]} and {line}"))
            seen[key] = line
        return super().construct_mapping(node, deep)


def read(path: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The mapping in a file, or None, and what is wrong with it as YAML.

    Raises:
        OSError: the file cannot be read.
    """
    loader = _Loader(path.read_text(encoding="utf-8"))
    try:
        raw = loader.get_single_data()
    except (yaml.YAMLError, TypeError) as error:  # TypeError: an unhashable key
        return None, [Fault(field="", problem=f"is not YAML: {' '.join(str(error).split())}")]
    finally:
        loader.dispose()
    if not isinstance(raw, dict):
        expected = "a job is a mapping with at least name, models, tasks and knobs"
        return None, [Fault(field="", problem=f"{expected}; got {raw!r}")]
    return raw, loader.twice


def written(raw: dict[str, Any]) -> str:
    """The same mapping as a file that ``read`` gives back; comments are not kept."""
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)

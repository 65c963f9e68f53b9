"""Pydantic's errors as faults of a job: the field, the value, what was allowed, the nearest name."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vlmprof.errors import Fault, shortened, suggestion
from vlmprof.job.strict_yaml import shown

PLAIN = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least one entry",
    "string_too_long": "a shorter text",
    "string_pattern_mismatch": "lower-case letters, digits, - and _, with a letter or a digit first",
}
"""Pydantic's kinds of errors -> what was expected, in the words of YAML."""
BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
"""Likewise for numbers: the key of the bound in the error's context, and its words."""


MOST_FAULTS = 1000
"""So many are put into words."""


def faults_of(error: ValidationError, root: type[BaseModel]) -> list[Fault]:
    """The faults from validating ``root``; a value of several forms is one fault with all of them."""
    merged: dict[tuple[str, str], str] = {}
    details = error.errors(include_url=False)
    for found in (fault(detail, root) for detail in details[:MOST_FAULTS]):
        expected, got, given = found.problem.partition(", got ")
        if not (got and expected.startswith("expected ")):
            merged[found.field, found.problem] = found.problem
        elif before := merged.get((found.field, "")):  # another form of the same value
            either, _, first = before.partition(", got ")
            hint = "" if ";" in first else given[len(given.partition(";")[0]) :]
            merged[found.field, ""] = f"{either} or {expected.removeprefix('expected ')}, got {first}{hint}"
        else:
            merged[found.field, ""] = found.problem
    more = [Fault(field="", problem=f"{count:,} more faults")] if (count := len(details) - MOST_FAULTS) > 0 else []
    return [*(Fault(field=field, problem=problem) for (field, _), problem in merged.items()), *more]


def fault(detail: ErrorDetails, root: type[BaseModel]) -> Fault:
    """The fault for one error from validating ``root``."""
    location = tuple(part for part in detail["loc"] if part != "[key]")
    place = ".".join(str(part) for part in location if not _is_union_branch(part))
    given, kind = detail["input"], detail["type"]
    if kind == "extra_forbidden":
        known = sorted(_section_at(location[:-1], root).model_fields)
        return Fault(
            field=place, problem=f"unknown key '{shortened(str(location[-1]))}'{suggestion(str(location[-1]), known)}"
        )
    if kind == "missing":
        return Fault(field=place, problem="is required")
    if kind == "literal_error":
        allowed = detail.get("ctx", {}).get("expected", "")
        return Fault(field=place, problem=f"expected {allowed}, got {shown(given)}{_near(given, allowed)}")
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return Fault(field=place, problem=message)
    if expected := PLAIN.get(kind) or _bound(detail):
        return Fault(field=place, problem=f"expected {expected}, got {_with_kind(given, kind)}")
    return Fault(field=place, problem=f"{message[0].lower()}{message[1:]}, got {shown(given)}")


def _bound(detail: ErrorDetails) -> str:
    """What a number out of bounds was expected to be; empty for any other error."""
    key, words = BOUNDS.get(detail["type"], ("", ""))
    return f"{words} {detail.get('ctx', {})[key]:g}" if key else ""


def _with_kind(given: Any, kind: str) -> str:
    """The value; a number in quotes is called text, because that is what is wrong with it."""
    is_number_as_text = isinstance(given, str) and kind in ("int_type", "float_type") and given.strip("-+.").isdigit()
    return f"the text {shown(given)}; write it without quotes" if is_number_as_text else shown(given)


def _near(given: Any, allowed: str) -> str:
    words = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
    return suggestion(given, words).split(" (there are")[0] if isinstance(given, str) else ""


def _is_union_branch(part: Any) -> bool:
    """Pydantic adds the branch of a union that it tried to the location; that is not a field."""
    return isinstance(part, str) and part.startswith(("literal[", "constrained", "function-", "int", "str"))


def _section_at(location: tuple[Any, ...], section: type[BaseModel]) -> type[BaseModel]:
    for part in location:
        field = section.model_fields.get(part) if isinstance(part, str) else None
        inner = section_of(field.annotation) if field else None
        section = inner or section
    return section


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model class in a field's annotation, also inside a list or a union; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for arg in get_args(annotation) if (section := section_of(arg))), None)

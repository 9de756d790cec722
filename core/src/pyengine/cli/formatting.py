"""``--format`` of inspect, info, version and events: one template over one object."""

from __future__ import annotations

from pyengine.cli.client import CommandError
from pyengine.cli.gotemplate import Template, TemplateError
from pyengine.cli.govalues import Row, structured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse_or_64(text: str, name: str = "") -> Template:
    """A format; CommandError with Docker's exit status 64 if it is none."""
    try:
        return Template("{{json .}}" if text == "json" else text, name)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}", 64)


def execute_typed(template: Template, value: Any, type_name: str = "") -> str:
    """The template over an object's typed fields; CommandError with Go's words."""
    try:
        return template.execute(structured(value, type_name=type_name or "struct"))
    except TemplateError as error:
        raise CommandError(str(error))


def execute_inspect(template: Template, value: Any) -> str:
    """Typed first, then over the plain JSON, where a missing key is an error (as Docker does).

    A row has no other form than its own.
    """
    try:
        if isinstance(value, Row):
            return template.execute(value)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}")
    try:
        return template.execute(structured(value, type_name="inspect"))
    except TemplateError:
        pass
    try:
        return template.execute(value, missing_is_error=True)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}")

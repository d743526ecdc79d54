"""Form fields: `application/x-www-form-urlencoded`, bounded and strict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from attrs import frozen

from penncloud.web.errors import WebError

# Fields of one form; twice the largest selection that a page offers.
MAX_FIELDS: Final = 2000


@frozen
class Form:
    """The fields of a form (or of a query), by name, in the order they were sent."""

    fields: Mapping[str, list[str]]

    def text(self, name: str, default: str | None = None) -> str:
        """The field's first value; without it `default`, or a WebError (400) if there is none."""
        values = self.fields.get(name)
        if values:
            return values[0]
        if default is None:
            raise WebError(400, f"The field “{name}” is missing.")
        return default

    def all(self, name: str) -> list[str]:
        """Every value of a field (check boxes, multiple selections)."""
        return list(self.fields.get(name, ()))

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A decimal number between `low` and `high`, or a WebError (400)."""
        value = self.text(name, "")
        if not value:
            return default
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
            raise WebError(400, f"The field “{name}” is not a number.")
        number = int(value)
        if not low <= number <= high:
            raise WebError(400, f"The field “{name}” is not between {low} and {high}.")
        return number


def parse_form(data: bytes) -> Form:
    """Percent-decode fields; WebError (400) for too many or for what is not UTF-8."""
    fields: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            data.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError as error:
        raise WebError(400, "The form could not be read.") from error
    for name, value in pairs:
        # Browsers send line ends of text areas as CRLF (HTML standard, form submission).
        fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return Form(fields)

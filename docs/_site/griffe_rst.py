"""An extension of griffe: docstrings say names and formulas in reStructuredText, the site wants Markdown and MathML."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r':(?:class|func|meth|mod):`~?([^`]+)`')
FORMULA = re.compile(r':math:`([^`]+)`')
BLOCK = re.compile(r'^( *)\.\. math::[ \t]*\n((?:\1 +\S.*\n?|[ \t]*\n)+)', re.MULTILINE)


def to_markdown(text: str) -> str:
    """Roles to code, formulas to MathML, which browsers draw without a script.

    Example:
        >>> to_markdown('as :class:`galr_mm.MIDF` does')
        'as `galr_mm.MIDF` does'
    """
    text = BLOCK.sub(lambda found: textwrap.indent(displayed(found[2]), found[1]), text)
    text = FORMULA.sub(lambda found: f'<span>{convert(found[1])}</span>', text)
    return ROLE.sub(r'`\1`', text)


def displayed(formula: str) -> str:
    """A formula on lines of its own; ``&`` aligns."""
    formula = textwrap.dedent(formula).strip()
    if '&' in formula:
        formula = rf'\begin{{align*}} {formula} \end{{align*}}'
    return f'<div>{convert(formula, display="block")}</div>\n\n'


class Markdown(griffe.Extension):
    """Converts each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)

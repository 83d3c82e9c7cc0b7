"""How docstrings are shown in the documentation: an extension of Griffe, which reads them.

- A formula (`.. math::` with LaTeX) becomes MathML, which browsers show without any script.
- "Example:" becomes the section "Examples:", whose doctests are highlighted.
"""

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

FORMULA = re.compile(r"^( *)\.\. math::\n((?:\1 +.*\n?|\n)+)", re.MULTILINE)


def as_markdown(text: str) -> str:
    """The docstring with its formulas as MathML."""

    def formula(found: re.Match[str]) -> str:
        indent, latex = found[1], textwrap.dedent(found[2]).strip()
        mathml = "\n\n".join(convert(part, display="block") for part in latex.split("\n\n"))
        return textwrap.indent(f'<div class="formula">{mathml}</div>\n\n', indent)

    text = FORMULA.sub(formula, text)
    return re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):  # type: ignore[misc]  # mypy reads no types of griffe
    """Rewrites each docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

"""How the documentation is built: `sphinx-build -W --keep-going -n -b html docs docs/_build`."""

from __future__ import annotations

import inspect
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.domains import ObjType
from sphinx.domains.python import PythonDomain

from retrying_executor import RetryingFuture, RetryPolicy, Upstream

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "retrying-executor"
author = "The retrying-executor maintainers"
copyright = "the retrying-executor maintainers"  # noqa: A001  # the name that Sphinx reads
release = version = metadata.version("retrying-executor")
language = "en_GB"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_heading_anchors = 3

# A button copies what is typed: where there are prompts, only the lines after them. Output has no button.
copybutton_selector = "div:not(.highlight-text) > div.highlight pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings: Google style; a name in single backticks is a reference.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Signatures have their types. What is too long for a line has a line for each parameter.
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
python_display_short_literal_types = True

# The standard library is named, not linked: a build needs no network. So are the variables of types.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|collections|concurrent|contextlib|contextvars|datetime|multiprocessing)(\..*)?"),
    (r"py:.*", r"(os|random|time|types)(\..*)?"),
    (r"py:.*", r"ThreadPoolExecutor|[A-Za-z]*(Error|Exception)|BrokenThreadPool"),
    (r"py:class", r"Abstract(ContextManager|EventLoop)|BaseContext|EllipsisType|PathLike|Unpack|timedelta"),
    (r"py:class", r"P(\.args|\.kwargs)?|T"),
]

# Annotations may name aliases of types. Before Sphinx 8.2, which needs Python 3.11, they found classes only.
PythonDomain.object_types["type"] = ObjType("type alias", "type", "class", "obj")

# They say that they are in the package. The order of their members is that of the source, which is elsewhere.
for cls in (RetryPolicy, RetryingFuture, Upstream):
    cls.__module__ = inspect.unwrap(cls.__init__).__globals__["__name__"]


def lead_from_here(_app: Sphinx, path: Path, _page: str, content: list[str]) -> None:
    """Have the links of a page at the top level, which is included here, lead to pages in this directory."""
    if path.parent == Path(".."):
        content[0] = re.sub(r"\]\(docs/", "](", content[0])
        content[0] = re.sub(
            r"\]\((CHANGELOG|CONTRIBUTING)\.md", lambda at: f"]({at[1].lower()}.md", content[0]
        )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("include-read", lead_from_here)

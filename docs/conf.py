"""How the documentation is built: `sphinx-build -W --keep-going -n -b html docs docs/_build`."""

from __future__ import annotations

import inspect
from importlib import metadata

from retrying_executor import RetryingFuture, RetryPolicy, Upstream

project = "retrying-executor"
author = "The retrying-executor maintainers"
copyright = "the retrying-executor maintainers"  # noqa: A001  # the name that Sphinx reads
release = version = metadata.version("retrying-executor")
language = "en_GB"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_heading_anchors = 3

# Docstrings: Google style; a name in single backticks is a reference.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the aliases exist for type checkers only
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# The standard library is named, not linked: a build needs no network.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|concurrent|contextvars|multiprocessing|random|time)(\..*)?"),
    (r"py:.*", r"ThreadPoolExecutor|[A-Za-z]*(Error|Exception)|BrokenThreadPool"),
]

# They say that they are in the package. The order of their members is that of the source, which is elsewhere.
for cls in (RetryPolicy, RetryingFuture, Upstream):
    cls.__module__ = inspect.unwrap(cls.__init__).__globals__["__name__"]

"""Run the recipes of the page beside it, against services on this computer, and print what came of them.

``--check`` fails if the tables on the page show something else; ``--write`` puts them there.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import cookbook  # found by the line above
import recipes
import recipes_of_limits as limits


def tables() -> str:
    """Run all recipes; return the file that the page includes."""
    with tempfile.TemporaryDirectory() as directory:
        found = {
            limits.EMBEDDINGS: limits.table_of_minutes(limits.ways_to_count()),
            limits.WEBHOOKS: limits.table_of_deliveries(limits.ways_to_deliver()),
            limits.SCRAPER: limits.table_of_crawls(limits.ways_to_crawl()),
            limits.TENANTS: limits.table_of_imports(limits.ways_to_import()),
            recipes.EXPORT: recipes.table_of_nights(recipes.nights()),
            recipes.SYNC: recipes.table_of_starts(recipes.two_starts(recipes.Lists(), Path(directory))),
            recipes.INTERACTIVE: recipes.table_of_clicks(recipes.ways_to_click()),
        }
    lines = [line for section, table in found.items() for line in (f"<!-- {section} -->", "", *table, "")]
    return "\n".join([*lines, "<!-- end -->", ""])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page shows something else")
    parser.add_argument("--write", action="store_true", help="put the tables on the page")
    options = parser.parse_args(argv)
    logging.disable()  # of outages, which are made on purpose
    text = tables()
    print(text, end="")
    if options.write:
        cookbook.TABLES.write_text(text, encoding="ascii")
    if options.check and cookbook.TABLES.read_text(encoding="ascii") != text:
        raise SystemExit(
            f"{cookbook.TABLES.name} shows something else: --write, and look at what the page says"
        )


if __name__ == "__main__":
    main()

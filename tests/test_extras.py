"""Optional integrations: nobody pays for them who does not ask for them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from conftest import TIMEOUT

EXTRAS = {
    "opentelemetry": ["opentelemetry", "wrapt"],
    "prometheus": ["prometheus_client"],
    "sentry": ["sentry_sdk"],
}


def test_import_of_the_package_imports_no_integration() -> None:
    """They are imported by who names them."""
    names = {name for needed in EXTRAS.values() for name in needed}
    names |= {f"retrying_executor.{extra}" for extra in EXTRAS}
    code = f"import sys, retrying_executor; print(sorted({names} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT, check=True, encoding="utf-8"
    )
    assert "[]" == done.stdout.strip()


@pytest.mark.parametrize("extra", EXTRAS)
def test_without_its_packages_an_integration_says_what_to_install(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named in the error."""
    for name in [*EXTRAS[extra], *sys.modules]:
        if name.partition(".")[0] in EXTRAS[extra]:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"retrying_executor.{extra}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'retrying-executor\[{extra}\]'"):
        importlib.import_module(f"retrying_executor.{extra}")

"""The script that the program runs: processes that an engine starts have to import it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def keep_script() -> bool:
    """Have processes import the script even when they are started after it has run to its end.

    They find it by the ``__file__`` of the main module, which Python removes at that moment. Calls may still
    wait then. So the name is kept in the class of the module, too, where Python does not look for it.

    Returns:
        Whether another process can import the main module: not if it was typed in.
    """
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None:
        return getattr(main, "__spec__", None) is not None
    cls = type(main)
    if "__file__" not in vars(cls):
        main.__class__ = type(cls.__name__, (cls,), {"__slots__": (), "__file__": file})
    return True

"""Whether a pickle may hold a table, told without loading it: loading a model imports the library that made it, and takes its memory."""

import os
import pickletools
import sys
from pathlib import Path
from typing import Final

from mlsec_dagster.integrity.readers import ARROW_STREAM, TABLES

OPERATIONS: Final = 200
"""How far is looked: a table's library is named where its class is, or, of a subclass, in the first of its attributes."""


def may_hold_table(path: str | os.PathLike[str]) -> bool:
    """False only where the pickled value is no table that `is_table` would know, once loaded.

    Classes of other libraries, whose tables tell by a method that they are some, are known as far as their module is imported.
    """
    texts: list[str] = []
    with Path(path).open("rb") as file:
        try:
            for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
                if number == OPERATIONS:
                    return False
                if isinstance(argument, str):
                    texts += argument.split(" ") if operation.name == "GLOBAL" else [argument]
                    if texts[-1].partition(".")[0] in TABLES or texts[-2:][0].partition(".")[0] in TABLES:
                        return True
                    if len(texts) == 2 and hasattr(getattr(sys.modules.get(texts[0]), texts[1], None), ARROW_STREAM):
                        return True
        except ValueError:  # No pickle; whoever loads it finds out what it is.
            return True
    return False

"""`brew360 context build`: the member context of a service, from the tables of a data folder."""

from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from brew_data.data_folder import DataFolder
from brew_data.schema import Tables, micros
from brew_platform.errors import UserError
from brew_serve.context import location

__all__ = ["ALL", "TRAIN_CUT", "build_context"]

TRAIN_CUT, ALL = "train-cut", "all"


def build_context(data: DataFolder, out: Path | str, *, until: str, by_id: bool = True) -> Tables:
    """Write profiles, histories and entities by id, as requests that contain ids only need them.

    Args:
        data: The data folder.
        out: SQLite file to create, or redis://host:6379/0 to fill; an existing context is replaced.
        until: `train-cut`: only interactions before the benchmark, for one over HTTP, because later ones include
            the outcomes of the candidates. `all`: all interactions, for a service.
        by_id: Requests name the members of a data set with pseudonyms by their ids, of which the service computes the
            pseudonyms; otherwise by the pseudonyms, as the tables do.

    Returns:
        The tables that the context has.

    Raises:
        UserError: `until` is another word, or `out` is a folder.
        DataError: The tables cannot be read.
        Unavailable: The Redis failed.
    """
    if until not in (TRAIN_CUT, ALL):
        raise UserError(f"--until is {until!r}; use {TRAIN_CUT} or {ALL}.")
    if Path(out).is_dir():
        file = Path(out) / "context.sqlite"
        raise UserError(f"{out} is a folder. Pass the path of the SQLite file to write, e.g. {file}.")
    tables = data.tables()
    if until == TRAIN_CUT:
        known = pc.less_equal(micros(tables.interactions), data.info.split.benchmark_after)
        tables = replace(tables, interactions=tables.interactions.filter(known))
    location.build_context(tables, str(out), key_id=data.info.key_id if by_id else None)
    return tables

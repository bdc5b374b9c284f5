"""Applies a function to shards with Ray Data.

A task gets the number of a shard, reads the files of the shard, and yields tables, so blocks hold results only. The
cluster decides how many tasks run at once, and nothing else. Ray starts a task again when its worker or node dies, so
functions that write files replace them.

Ray's own hash shuffle and join are not used: what they store in between ends with the process that started them, so a
killed build could not continue, and `Dataset.join` needs polars and cannot carry structs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

__all__ = ["run_shards", "shard_dataset"]

ShardFunction = Callable[..., Iterator[pa.Table]]


def shard_dataset(function: ShardFunction, shards: Sequence[int], **arguments: Any) -> ray.data.Dataset:
    """Return the rows of the tables that a function yields for shards.

    Args:
        function: Called with the number of a shard and `arguments`.
        shards: At least one.
        arguments: Are sent to the workers once.
    """
    return ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(
        _apply,
        fn_kwargs={"function": function, "shards": list(shards), "arguments": arguments},
        batch_format="pyarrow",
        batch_size=1,
    )


def run_shards(function: ShardFunction, shards: Sequence[int], **arguments: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of the tables that a function yields for shards, as shards finish.

    Without Ray, the function runs in this process. So it does in an actor of Ray, which must not wait for resources
    that it holds.

    Args:
        function: Called with the number of a shard and `arguments`; yields small tables.
        shards: May be empty.
        arguments: As for `shard_dataset`.
    """
    if not shards:
        return
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is None:
        yield from shard_dataset(function, shards, **arguments).iter_rows()
    else:
        for shard in shards:
            for table in function(shard, **arguments):
                yield from table.to_pylist()


def _apply(
    batch: pa.Table, *, function: ShardFunction, shards: list[int], arguments: dict[str, Any]
) -> Iterator[pa.Table]:
    [place] = batch["id"].to_pylist()
    yield from function(shards[place], **arguments)

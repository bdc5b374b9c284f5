"""Bookkeeping of a prefix cache: which cache blocks hold which prompt prefixes.

A block holds the keys and values of a fixed number of tokens, which depend on these and all earlier tokens. Its key is
therefore a digest of all of them. The least recently used blocks are reclaimed first. Not thread-safe.
"""

import hashlib
from collections import OrderedDict

import numpy as np

__all__ = ["OutOfBlocks", "PrefixBlocks"]


class OutOfBlocks(Exception):
    """More blocks are needed at once than there are."""


class PrefixBlocks:
    """Hands out blocks for beginnings of prompts.

    Args:
        first: number of the first block.
        count: how many there are, numbered on from it.
        size: tokens of a block.
    """

    def __init__(self, *, first: int, count: int, size: int) -> None:
        self.size = size
        self._free = list(range(first + count - 1, first - 1, -1))
        self._block: OrderedDict[bytes, int] = OrderedDict()  # by digest; the least recently used first
        self._held: set[bytes] = set()

    def release(self) -> None:
        """What was taken so far may be given to others."""
        self._held.clear()

    def forget(self) -> None:
        """What blocks hold is of no use any more."""
        self._free += self._block.values()
        self._block.clear()
        self._held.clear()

    def take(self, ids: np.ndarray) -> tuple[list[int], int]:
        """Blocks for the beginning of a prompt; they are not given to others until `release`.

        Args:
            ids: int32 token ids; what is beyond the last full block gets none.

        Returns:
            The blocks, in order, and how many of them, from the first on, hold what they should already. The caller
            fills the others before anything reads them.

        Raises:
            OutOfBlocks: others hold too many; nothing was taken.
        """
        names = self._names(ids)
        known = next((i for i, name in enumerate(names) if name not in self._block), len(names))
        self._require_blocks(names, known)
        blocks = [self._block[name] for name in names[:known]]
        self._held.update(names)
        for name in names[known:]:
            # A block behind one that was lost may still be there; it is filled again, where it is.
            block = self._block.get(name)
            if block is None:
                block = self._free.pop() if self._free else self._reclaim()
                self._block[name] = block
            blocks.append(block)
        for name in reversed(names):  # beginnings are the last to go
            self._block.move_to_end(name)
        return blocks, known

    def _names(self, ids: np.ndarray) -> list[bytes]:
        names, name = [], b""
        for start in range(0, len(ids) - self.size + 1, self.size):
            name = hashlib.blake2b(name + ids[start : start + self.size].tobytes(), digest_size=16).digest()
            names.append(name)
        return names

    def _require_blocks(self, names: list[bytes], known: int) -> None:
        wanted = sum(name not in self._block for name in names[known:])
        ours = sum(name not in self._held for name in names if name in self._block)
        if wanted > len(self._free) + len(self._block) - len(self._held) - ours:
            raise OutOfBlocks

    def _reclaim(self) -> int:
        name = next(name for name in self._block if name not in self._held)
        return self._block.pop(name)

"""Bookkeeping of a prefix cache: which cache blocks hold which prompt prefixes.

A block holds the keys and values of a fixed number of tokens, which depend on these and all earlier tokens. Its key is
therefore a digest of all of them. The least recently used blocks are reclaimed first. Not thread-safe.
"""

import hashlib
from collections import OrderedDict

import numpy as np

__all__ = ["OutOfBlocks", "PrefixBlocks"]


class OutOfBlocks(Exception):
    """The prompts of a pass need more blocks than the cache has."""


class PrefixBlocks:
    """Assigns cache blocks to prompt prefixes.

    Args:
        first: Number of the first block.
        count: Number of blocks; their numbers are consecutive.
        size: Tokens per block.
    """

    def __init__(self, *, first: int, count: int, size: int) -> None:
        self.size = size
        self._free = list(range(first + count - 1, first - 1, -1))
        self._block: OrderedDict[bytes, int] = OrderedDict()  # by digest, least recently used first
        self._held: set[bytes] = set()

    def release(self) -> None:
        """Allow the blocks taken so far to be reclaimed."""
        self._held.clear()

    def forget(self) -> None:
        """Discard the content of all blocks."""
        self._free += self._block.values()
        self._block.clear()
        self._held.clear()

    def take(self, ids: np.ndarray) -> tuple[list[int], int]:
        """Take the blocks for a prompt's prefix. They are not reclaimed until `release`.

        Args:
            ids: int32 token ids; tokens beyond the last full block get no block.

        Returns:
            The blocks, in order, and the number of leading blocks whose content is already computed. The caller must
            fill the others before they are read.

        Raises:
            OutOfBlocks: Too many blocks are taken; this call took none.
        """
        names = self._names(ids)
        known = next((i for i, name in enumerate(names) if name not in self._block), len(names))
        self._require_blocks(names, known)
        blocks = [self._block[name] for name in names[:known]]
        self._held.update(names)
        for name in names[known:]:
            # A block can outlast an earlier block of its prefix. It is then filled again in place.
            block = self._block.get(name)
            if block is None:
                block = self._free.pop() if self._free else self._reclaim()
                self._block[name] = block
            blocks.append(block)
        for name in reversed(names):  # blocks at the start of a prefix are reclaimed last
            self._block.move_to_end(name)
        return blocks, known

    def _names(self, ids: np.ndarray) -> list[bytes]:
        names, name = [], b""
        for start in range(0, len(ids) - self.size + 1, self.size):
            name = hashlib.blake2b(name + ids[start : start + self.size].tobytes(), digest_size=16).digest()
            names.append(name)
        return names

    def _require_blocks(self, names: list[bytes], known: int) -> None:
        missing = sum(name not in self._block for name in names[known:])
        reused = sum(name not in self._held for name in names if name in self._block)
        if missing > len(self._free) + len(self._block) - len(self._held) - reused:
            raise OutOfBlocks

    def _reclaim(self) -> int:
        name = next(name for name in self._block if name not in self._held)
        return self._block.pop(name)

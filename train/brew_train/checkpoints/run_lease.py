"""The lease on a run folder: only the latest attempt may write.

When a driver is lost, its workers on other nodes go on for some seconds, while the relaunched driver starts new ones;
without a lease each would remove the other's checkpoints.
"""

from pathlib import Path

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["RunLease"]

LEASE = "lease"  # a file in the run folder: the id of the attempt that may write


class RunLease:
    """The right to write a run folder, taken on construction from its previous holder.

    Args:
        run: the run folder, which exists.
        attempt: an id that no other attempt has.
    """

    def __init__(self, run: Path, attempt: str) -> None:
        self.path, self.attempt = run / LEASE, attempt
        replace_atomically(self.path, attempt)

    def require(self) -> None:
        """Raises a UserError where a later attempt has taken the folder: it is not ours to write any more."""
        holder = self.path.read_text()
        if holder != self.attempt:
            raise UserError(
                f"{self.path.parent} was taken over by a later attempt ({holder}), so this one ({self.attempt}) stops "
                f"and leaves it alone: give two runs two folders."
            )

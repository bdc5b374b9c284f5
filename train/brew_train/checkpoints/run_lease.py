"""The lease on a run folder: only the latest attempt may write.

When a driver is lost, its workers on other nodes continue for some seconds, while the relaunched driver starts new
workers. Without a lease, each attempt would remove the checkpoints of the other.
"""

from pathlib import Path

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["RunLease"]

LEASE = "lease"  # file in the run folder with the id of the attempt that may write


class RunLease:
    """The exclusive right to write a run folder. A new lease replaces that of an earlier attempt.

    Args:
        run: run folder, which must exist.
        attempt: unique id of the attempt.
    """

    def __init__(self, run: Path, attempt: str) -> None:
        self.path, self.attempt = run / LEASE, attempt
        replace_atomically(self.path, attempt)

    def require(self) -> None:
        """Checks that no later attempt has taken the folder.

        Raises:
            UserError: another attempt holds the lease.
        """
        holder = self.path.read_text()
        if holder != self.attempt:
            raise UserError(
                f"{self.path.parent} was taken over by a later attempt ({holder}), so this attempt ({self.attempt}) "
                f"stops: use different folders for different runs."
            )

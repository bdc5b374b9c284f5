"""Who may write a run folder: the attempt that came last.

Owns: the claim. Does not own: what is written. When a driver is lost, its workers on other nodes go on for some
seconds, while the relaunched driver starts new ones; without a claim each would tidy up the other's commits.
"""

from pathlib import Path

from brew_platform.errors import UserError

__all__ = ["Claim"]

CLAIM = "claim"  # a file in the run folder: the id of the attempt that may write


class Claim:
    """The right to write a run folder, taken on construction from whoever had it.

    Args:
        run: the run folder, which exists.
        attempt: an id that no other attempt has.
    """

    def __init__(self, run: Path, attempt: str) -> None:
        self.path, self.attempt = run / CLAIM, attempt
        temporary = run / f".{CLAIM}-{attempt}"
        temporary.write_text(attempt)
        temporary.replace(self.path)

    def require(self) -> None:
        """Raises a UserError where a later attempt has taken the folder: it is not ours to write any more."""
        holder = self.path.read_text()
        if holder != self.attempt:
            raise UserError(
                f"{self.path.parent} was taken over by a later attempt ({holder}), so this one ({self.attempt}) stops "
                f"and leaves it alone: give two runs two folders."
            )

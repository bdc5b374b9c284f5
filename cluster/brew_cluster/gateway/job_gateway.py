"""What the requests and the loop of a gateway share: its ledger, its cluster, its settings and its teams."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.executor import JobExecutor
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.queue import Capacity
from brew_platform.errors import UserError
from brew_platform.identity.keys import Team, list_keys

__all__ = ["JobGateway", "TeamTable"]

_LOG = logging.getLogger("brew_cluster")


@dataclass(frozen=True, kw_only=True)
class JobGateway:
    """A gateway. Threads can share it.

    Attributes:
        ledger: The ledger.
        executor: The cluster.
        config: The settings.
        teams: Returns the teams by name.
    """

    ledger: Ledger
    executor: JobExecutor
    config: GatewayConfig
    teams: Callable[[], Mapping[str, Team]]

    @property
    def capacity(self) -> Capacity:
        """What jobs can use of the cluster together."""
        return Capacity(gpus=self.config.gpus, cpus=self.config.cpus)


class TeamTable:
    """The teams of a key file, by name, read again after each change.

    Args:
        path: Of the key file.

    Raises:
        UserError: The file is missing or malformed. A later change that breaks it is logged, and the teams stay.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._read_stamp()
        self._teams = _read_teams(path)

    def __call__(self) -> Mapping[str, Team]:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            try:
                self._teams, self._stamp = _read_teams(self._path), stamp
            except UserError as error:
                _LOG.error("the key file cannot be used, and the quotas stay unchanged: %s", error)
        return self._teams

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


def _read_teams(path: Path) -> dict[str, Team]:
    return {team.name: team for _, team in list_keys(path)}

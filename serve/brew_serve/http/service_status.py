"""What the edge and the operators' routes ask of whoever stands behind them: one service, or a gateway to a fleet."""

from collections.abc import Callable
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from brew_serve.metrics import Meters

__all__ = ["FleetStatus", "Front", "VersionStatus"]


class VersionStatus(BaseModel):
    """A version that is up, or on its way."""

    version: int
    role: Literal["production", "canary", "shadow", "none"] = Field(description="none: coming or going")
    share: float = Field(description="of the members whose requests it gets, 0 to 1")
    replicas: int = Field(description="that answer now")
    state: Literal["starting", "up", "failed", "leaving"]


class FleetStatus(BaseModel):
    """Which versions serve."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "brew360",
                    "alias": "production",
                    "versions": [
                        {"version": 3, "role": "production", "share": 1.0, "replicas": 2, "state": "up"},
                        {"version": 4, "role": "canary", "share": 0.05, "replicas": 1, "state": "up"},
                    ],
                }
            ]
        }
    )

    model: str
    alias: str = Field(description="of the registry, that the service follows")
    versions: list[VersionStatus]


class Front(Protocol):
    """The service, as seen from outside."""

    clock: Callable[[], float]  # seconds; `Call.arrival` is on it
    meters: Meters

    def health(self) -> int:
        """The version that answers. Raises a BrewError when the service should be started anew."""

    def ready(self) -> int:
        """The version that answers. Raises a BrewError when no requests should be sent here now."""

    async def metrics(self) -> bytes:
        """Prometheus metrics as text."""

    async def status(self) -> FleetStatus:
        """Which versions serve. Raises a BrewError when that is not known now."""

"""Responses of the operators' routes: health, and which model versions serve."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FleetStatus", "Health", "VersionStatus"]


class Health(BaseModel):
    """The service is healthy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "version": 3}]})
    status: str
    version: int = Field(description="the model version that answers")
    degraded: list[str] = Field(
        default_factory=list,
        description="parts that wait for something outside the service; `nearline`: for its store or queue. Events are "
        "accepted, and rankings get stale. Left out if there are none",
    )


class VersionStatus(BaseModel):
    """A model version that is deployed, starting, down or being removed."""

    version: int
    role: Literal["production", "canary", "shadow", "none"] = Field(description="none: starting or being removed")
    share: float = Field(description="fraction of the members whose requests it gets, 0 to 1")
    replicas: int = Field(description="number of replicas that answer now")
    state: Literal["starting", "up", "down", "failed", "leaving"] = Field(
        description="down: it was up, and none of its replicas answers now; production answers for a canary"
    )


class FleetStatus(BaseModel):
    """The model versions that serve."""

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
    alias: str = Field(description="the registry alias that the service follows")
    versions: list[VersionStatus]

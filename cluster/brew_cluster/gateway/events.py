"""The events of the gateway's ledger, and their stored form."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from brew_platform.errors import RegistryError

__all__ = ["KINDS", "JobEvent", "iso_time", "timestamp"]

# accept, refuse: a submission. start: an attempt is given its resources. run: the cluster has the attempt. stop: the
# gateway stops it. cancel: a person does. end: the attempt has ended; the job is queued again, or has ended too. close:
# the segment of the ledger is full, and the next event is the first of another segment.
KINDS = ("accept", "refuse", "start", "run", "stop", "cancel", "end", "close")


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One entry of the ledger, which is also the audit log."""

    number: int  # position in the ledger, from 1
    kind: str  # one of KINDS
    team: str  # empty of a refused key and of close
    time: str  # ISO 8601, UTC
    by: str  # `gateway`, or `key <id>` of the caller
    job: str = ""  # id; empty of a refused submission
    attempt: int = 0  # from 1; of start, run, stop and end
    reason: str = ""  # a sentence
    then: str = ""  # of stop and end: the state of the job afterwards: queued, succeeded, failed or cancelled
    outcome: str = ""  # of end: succeeded, failed, lost, preempted or cancelled; of refuse: invalid, quota or key
    ended: str = ""  # of end: when the attempt ended; ISO 8601, UTC
    spec: Mapping[str, Any] | None = None  # of accept and refuse: the JobSpec, or what was sent in its place
    request_id: str = ""  # of accept
    traceparent: str = ""  # of accept: the span of the submission (W3C Trace Context), to which the job's spans belong
    rate: float = 0.0  # of accept: the larger of the job's shares of the cluster's GPUs and CPUs
    weight: float = 1.0  # of accept: the team's
    write_id: str = ""  # unique per event

    @classmethod
    def from_document(cls, number: int, document: Mapping[str, Any]) -> "JobEvent":
        """Read an event from a stored document. Unknown fields, which a later release may have added, are ignored.

        Raises:
            RegistryError: A field is missing.
        """
        known = {name: value for name, value in document.items() if name in cls.__dataclass_fields__}
        try:
            return cls(**{**known, "number": number})
        except TypeError as error:
            raise RegistryError(
                f"event {number} of the job ledger is damaged: {error}. Restore its object from a backup of the store."
            ) from error

    def document(self) -> dict[str, Any]:
        """The stored form: all fields with a value but the number, which is in the key."""
        required = ("kind", "team", "time", "by", "rate", "weight")
        stored = asdict(self)
        del stored["number"]
        return {name: value for name, value in stored.items() if name in required or value not in ("", 0, None)}


def iso_time(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def timestamp(text: str) -> float:
    """Return the Unix time of an ISO 8601 text, in seconds."""
    return datetime.fromisoformat(text).timestamp()

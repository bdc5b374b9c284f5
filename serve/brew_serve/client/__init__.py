"""The typed client of a ranking service: blocking (`RankClient`) and for asyncio (`AsyncRankClient`).

Both have the same methods, one per route. All calls are idempotent: a ranking changes nothing, events carry an
`event_id`, and nearline requests carry a `request_id`. So the client retries 429 and 503 after the time in Retry-After.

Errors carry the service's message:

Unauthorized 401, Forbidden 403, Expired 408, BodyTooLarge 413, QuotaExceeded 429, Late 504
Overloaded, Lost, Unavailable   503, distinguished by the `code` of the response
UserError                       another 4xx, or arguments that cannot be sent (nothing was sent then)
BrewError                       another 5xx, no response, or no connection
"""

from brew_serve.client.async_client import AsyncRankClient
from brew_serve.client.calls import Call
from brew_serve.client.retries import Exchange, Retries
from brew_serve.client.sync_client import RankClient
from brew_serve.schemas.status import Health

__all__ = ["AsyncRankClient", "Call", "Exchange", "Health", "RankClient", "Retries"]

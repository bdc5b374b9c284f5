"""The routes of the HTTP application. A new route is one module here, and one entry of `ROUTES`."""

from brew_serve.http.route import Route
from brew_serve.http.routes.openai import CHAT_COMPLETIONS, COMPLETIONS, MODEL, MODELS
from brew_serve.http.routes.rank import RANK
from brew_serve.http.routes.score import GENERATIVE_SCORING, SCORE

__all__ = ["ROUTES"]

ROUTES: tuple[Route, ...] = (RANK, MODELS, MODEL, COMPLETIONS, CHAT_COMPLETIONS, SCORE, GENERATIVE_SCORING)

"""Compiles the prompts of requests without holding the event loop, after their sizes are checked.

The size of a text is known before it is encoded: a token stands for at most `Tokenizer.longest_token` characters, and a
byte-level tokenizer makes at most one token of a byte of UTF-8. So a text of C characters and B bytes has from
C / longest_token to B tokens. A request is refused before any of its text is encoded if the lower bound exceeds a
limit. The exact number is checked as each prompt is encoded.

Encoding takes about 0.4 microseconds per character. Short texts are encoded at once, because a thread would cost more
than it saves. Longer ones are encoded in threads, where tokenizers releases the interpreter's lock.
"""

import threading
from asyncio import wrap_future
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, Watch, pass_through
from brew_data.prompts.fields import field_values
from brew_data.prompts.history import first_possible
from brew_data.prompts.tasks import Surface, TaskSpec
from brew_platform.errors import BrewError, UserError
from brew_serve.engines.base import check_length
from brew_serve.errors import Overloaded
from brew_serve.metrics import Meters

__all__ = ["INLINE_CHARACTERS", "CompilationPool", "TextPrompts", "TextSize", "count_characters"]

Ids = tuple[int, ...]
T = TypeVar("T")
U = TypeVar("U")

INLINE_CHARACTERS = 16_000  # of text that is encoded in the event loop; takes less than 10 ms
_IDS_PER_CHARACTER = 20  # token ids that are copied in the time that a character takes to encode
_ROWS_PER_CHARACTER = 4  # interactions that are ranked for a candidate in this time
_THREADS = 2
_CHARACTERS_PER_TOKEN = 10  # of admission's limit: text has about 4 characters per token
_WAITING_REQUESTS = 4  # of the largest size that may wait for a thread, or have one
_CHARACTERS_PER_SECOND = 1_000_000  # for Retry-After


def count_characters(
    compiler: PromptCompiler,
    task: TaskSpec,
    profile: Mapping[str, object],
    history: Sequence[PastInteraction],
    entities: Sequence[Entity],
) -> int:
    """Return about how many characters are encoded for the prompts of a request, before anything is cut.

    Counted are profile, shown interactions and entities, and for each of these the question's own text. One more
    is counted for each interaction, shown or not, and the time to rank a history that depends on the candidate.

    Args:
        compiler: Compiles the prompts.
        task: The task.
        profile: The member's fields by name.
        history: The member's past interactions.
        entities: The candidates.

    Raises:
        UserError: As in `field_values`.
    """
    values = field_values(profile)
    policy = compiler.policy(task)
    surfaces = set(policy.surfaces)
    shown = [past for past in history if past.surface in surfaces]
    total = len(history)
    if policy.depends_on_candidate:  # the text of all interactions is read
        each = len(shown) // _ROWS_PER_CHARACTER + compiler.prefix_budget // _IDS_PER_CHARACTER
        total += len(entities) * each
    else:
        shown = shown[first_possible(len(shown), policy.max_interactions or compiler.prefix_budget) :]
    sources: list[TaskSpec | Surface] = [task, *map(compiler.suite.surface, policy.surfaces)]
    frame = max(sum(map(len, compiler.suite.question_frame(source, values, has_entity=True))) for source in sources)
    total += sum(len(value) for name, value in values.items() if name in compiler.suite.profile.shown)
    for entity in chain((past.entity for past in shown), entities):
        template = compiler.suite.entities.get(entity.entity_type)
        names = template.shown if template else ()
        total += frame + sum(len(value) for name, value in entity.values.items() if name in names)
    return total


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """The size of one prompt before its text is encoded.

    Args:
        characters: Of its text.
        ids: Number of token ids beside the text.
    """

    characters: int = 0
    ids: int = 0

    @property
    def effort(self) -> int:
        """The number of characters that take as long to encode as text and ids."""
        return self.characters + self.ids // _IDS_PER_CHARACTER


@dataclass(frozen=True, kw_only=True)
class TextPrompts:
    """The prompts of a request before their text is encoded.

    Args:
        sizes: Of each prompt; one or more.
        encoded: Token ids of each prompt, in the order of `sizes`. It is lazy: a text is encoded when its item is
            taken, perhaps in a thread.
    """

    sizes: Sequence[TextSize]
    encoded: Iterable[Ids]

    def least_tokens(self, longest_token: int) -> list[int]:
        """Return a lower bound of the tokens of each prompt.

        Args:
            longest_token: The largest number of characters that a token stands for.
        """
        return [size.ids - -size.characters // longest_token for size in self.sizes]

    @property
    def size(self) -> TextSize:
        """The size of all prompts together; a text that several prompts contain counts once for each."""
        return TextSize(
            characters=sum(size.characters for size in self.sizes), ids=sum(size.ids for size in self.sizes)
        )

    def encode(self, watch: Watch, *, context_length: int, most_in_all: int) -> list[Ids]:
        """Return the token ids of each prompt.

        Args:
            watch: As `CompilationPool.run` passes it.
            context_length: Tokens that the model reads.
            most_in_all: The largest number of tokens of all prompts together.

        Raises:
            UserError: A prompt is too long, or all are together.
        """
        prompts: list[Ids] = []
        tokens = 0
        for ids in watch(self.encoded):
            check_length(len(ids), context_length=context_length)
            tokens += len(ids)
            if tokens > most_in_all:
                raise UserError(
                    f"the prompts of this request have more than {most_in_all} tokens in all; send fewer items. A text "
                    f"that several prompts contain counts once for each."
                )
            prompts.append(ids)
        return prompts


class CompilationPool:
    """Runs compilations: small ones at once, large ones in threads, of which only so many wait.

    Args:
        meters: Records the refusals.
        max_outstanding_tokens: Admission's limit. It bounds the text of one request, and of those that wait.
    """

    def __init__(self, meters: Meters, *, max_outstanding_tokens: int) -> None:
        self.max_characters = _CHARACTERS_PER_TOKEN * max_outstanding_tokens
        self._meters = meters
        self._threads = ThreadPoolExecutor(_THREADS, "compilation")
        self._lock = threading.Lock()
        self._waiting = 0  # characters
        self._closed = threading.Event()

    def require_size(self, characters: int) -> None:
        """Check the size of a request.

        Args:
            characters: Of all texts that are encoded for it, and its token ids.

        Raises:
            UserError: It exceeds the limit.
        """
        if characters > self.max_characters:
            raise UserError(
                f"the prompts of this request have {characters} characters or token ids in all, but the service takes "
                f"{self.max_characters} per request. Send fewer candidates or items, or shorter texts. A text that "
                f"several prompts contain counts once for each."
            )

    async def run(self, compile: Callable[[Watch], T], *, characters: int) -> T:
        """Return the result of `compile`.

        If the caller is cancelled, the compilation ends before its next item.

        Args:
            compile: Compiles the prompts of one request. Its argument is the function that each of its loops passes
                its items through.
            characters: Of the text that is encoded.

        Raises:
            Overloaded: Too much text waits for a thread.
            BrewError: The pool was closed.
            UserError: As `require_size`.
            Exception: As `compile`.
        """
        self.require_size(characters)
        if characters <= INLINE_CHARACTERS:
            return compile(pass_through)
        self._require_open()
        self._take(characters)
        abandoned = threading.Event()

        def watch(items: Iterable[U]) -> Iterator[U]:
            for item in items:
                self._require_open()
                if abandoned.is_set():
                    raise BrewError("the request was cancelled.")
                yield item

        running = self._threads.submit(compile, watch)
        running.add_done_callback(lambda _: self._release(characters))
        try:
            return await wrap_future(running)
        finally:
            abandoned.set()

    def close(self) -> None:
        """End all compilations."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise BrewError("the service is shutting down; send requests to another replica.")

    def _take(self, characters: int) -> None:
        with self._lock:
            if self._waiting + characters <= _WAITING_REQUESTS * self.max_characters:
                self._waiting += characters
                return
        self._meters.shed.labels("compilation").inc()
        seconds = self._waiting / _CHARACTERS_PER_SECOND
        raise Overloaded(
            f"the service is busy with the prompts of other requests; try again in {seconds:.1f} s.", seconds
        )

    def _release(self, characters: int) -> None:
        with self._lock:
            self._waiting -= characters

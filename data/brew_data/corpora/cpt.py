"""Compiles plain text for continued pre-training (CPT): profiles with history, entities, and networks.

The documents are text between the tokenizer's first token, if it has one, and `<|end|>`. They have no other control
tokens, and every token is trained (role 1). A document that exceeds the context is split: at the end of a line, and the
head is repeated.

Source: 360Brew, arXiv 2501.16450, section 6 (CPT on the text of members, their activity, entities and the network).
"""

from collections.abc import Iterable, Mapping, Sequence

from brew_data.prompts.budget import NOTHING_CUT, Budget, Cut
from brew_data.prompts.compiler import Document, Entity, PastInteraction, PromptCompiler
from brew_data.prompts.fields import field_values
from brew_data.prompts.network import Link, network_fields
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.variation import FIRST, Variation

__all__ = ["entity_documents", "network_documents", "profile_documents"]

Ids = tuple[int, ...]
Line = tuple[Ids, Cut]
_KINDS = {"connection": "Connected with", "follow": "Follows", "follower": "Followed by"}
_NETWORK = {
    "connections": "Connections",
    "follows": "Follows members",
    "followers": "Followers",
    "connected_with": "Connected with",
    "following": "Follows",
}


def profile_documents(
    compiler: PromptCompiler,
    profile: Mapping[str, object],
    history: Iterable[PastInteraction],
    links: Sequence[Link] = (),
    *,
    variation: Variation = FIRST,
) -> list[Document]:
    """Render a profile, facts of the network, and the history with one line per interaction, the oldest first.

    Args:
        compiler: Its suite renders the records; a profile has at most `head_tokens`, a line `question_tokens`.
        profile: The member's fields by name.
        history: The member's past interactions, sorted by time. Those on surfaces without a trained task are left out.
        links: From `Network.links`.
        variation: The forms of the documents.

    Returns:
        The documents; none without any text.

    Raises:
        UserError: A surface or action is unknown, or as in `field_values`.
    """
    suite, values = compiler.suite, field_values(profile)
    head = _profile_line(compiler, values, variation)
    facts = network_fields(links, suite.profile.fields[0]) if suite.profile.fields else {}
    shown = {name: text for name, text in facts.items() if name not in suite.profile.shown}
    lines = [_encoded(compiler, f"{_NETWORK[name]}: {text}") for name, text in shown.items()]
    for past in history:
        if past.surface in suite.trained_surfaces:
            label = suite.surface(past.surface).label(past.action)
            template = suite.entities[past.entity.entity_type]
            template = template.form(variation, f"entities.{past.entity.entity_type}")
            before, after = variation.pick("cpt.line", ((f"{label}: ", ""), ("", f"{label}")))
            lines.append(_record_line(compiler, template, past.entity.values, before, after))
    return _split(compiler, head, lines)


def network_documents(
    compiler: PromptCompiler,
    profile: Mapping[str, object],
    links: Iterable[Link],
    *,
    variation: Variation = FIRST,
) -> list[Document]:
    """Render a profile, and one line for each member in its network: how they are connected, and the other profile.

    Args:
        compiler: As in `profile_documents`.
        profile: The member's fields by name.
        links: From `Network.links`.
        variation: The forms of the documents.

    Returns:
        The documents; none without links.

    Raises:
        UserError: As in `field_values`.
    """
    template = compiler.suite.profile.form(variation, "profile")
    lines = []
    for link in links:
        if text := template.render(link.profile):
            lines.append(_encoded(compiler, f"{_KINDS[link.kind]}: {', '.join(text.splitlines())}"))
    return _split(compiler, _profile_line(compiler, field_values(profile), variation), lines) if lines else []


def entity_documents(compiler: PromptCompiler, entity: Entity, *, variation: Variation = FIRST) -> list[Document]:
    """Render an entity, however long it is.

    Args:
        compiler: Its suite renders the entity.
        entity: The entity.
        variation: The forms of the documents.

    Returns:
        The documents; none without any text, or if no surface with a trained task shows entities of this type.

    Raises:
        UserError: As in `field_values`.
    """
    suite = compiler.suite
    trained = {surface.entity_type for surface in suite.surfaces if surface.name in suite.trained_surfaces}
    if entity.entity_type not in trained:
        return []
    template = suite.entities[entity.entity_type].form(variation, f"entities.{entity.entity_type}")
    ids = compiler.tokenizer.encode(template.render(entity.values))
    capacity = _capacity(compiler)
    return [_document(compiler, ids[start : start + capacity]) for start in range(0, len(ids), capacity)]


def _profile_line(compiler: PromptCompiler, values: Mapping[str, str], variation: Variation) -> Line:
    template = compiler.suite.profile.form(variation, "profile")
    return _record_line(compiler, template, values, "", "", limit=compiler.format.head_tokens)


def _record_line(
    compiler: PromptCompiler,
    template: RecordTemplate,
    values: Mapping[str, str],
    before: str,
    after: str,
    *,
    limit: int | None = None,
) -> Line:
    """Encode a record between two texts, and a line break; nothing without any text."""
    if not template.render(values):
        return (), NOTHING_CUT
    ends_line = template.end.endswith("\n")
    if after:
        after = f"{after}\n" if ends_line else f": {after}\n"
    elif not ends_line:
        after = "\n"
    limit = limit or compiler.format.question_tokens
    tokenizer = compiler.tokenizer
    ids, cut = Budget(tokenizer).fit(template, values, limit=limit, before=before, after=after)
    if cut and not tokenizer.decode(ids).endswith("\n"):
        ids += tokenizer.encode("\n")
    return ids, cut


def _encoded(compiler: PromptCompiler, text: str) -> Line:
    ids = compiler.tokenizer.encode(f"{text}\n")
    limit = compiler.format.question_tokens
    return ids[:limit], Cut(tokens=max(0, len(ids) - limit))


def _split(compiler: PromptCompiler, head: Line, lines: Iterable[Line]) -> list[Document]:
    """Return documents with as many lines as fit; each begins with the head."""
    capacity = _capacity(compiler)
    documents: list[Document] = []
    head_ids, head_cut = head
    ids, cut = list(head_ids), head_cut
    for line, line_cut in lines:
        if len(ids) + len(line) > capacity:
            documents.append(_document(compiler, ids, cut))
            ids, cut = list(head_ids), head_cut
        ids += line
        cut += line_cut
    return [*documents, _document(compiler, ids, cut)] if ids else documents


def _capacity(compiler: PromptCompiler) -> int:
    """Return the number of tokens of a document beside its first and last control token."""
    return compiler.format.context_length - 1 - (compiler.tokenizer.bos is not None)


def _document(compiler: PromptCompiler, text: Sequence[int], cut: Cut = NOTHING_CUT) -> Document:
    start = () if compiler.tokenizer.bos is None else (compiler.tokenizer.bos,)
    ids = (*start, *text, compiler.tokenizer.end)
    return Document(ids=ids, roles=(1,) * len(ids), cut=cut)

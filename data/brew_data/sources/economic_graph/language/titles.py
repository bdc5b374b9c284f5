"""Titles of positions: a role with its seniority, in five languages."""

from collections.abc import Mapping

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.language.grammar import Draw, Facts, Grammar, sentence

__all__ = ["ROLES_WITH_ARTICLE", "position_title"]

# One tuple per seniority.
_LEVELS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "en": (
        ("Junior {role}", "Graduate {role}", "{role} trainee", "Entry-level {role}", "{role} (first job)"),
        ("{role}", "{role}", "{role} II", "Experienced {role}"),
        ("Senior {role}", "Senior {role}", "Sr. {role}", "{role} (senior)"),
        ("Lead {role}", "Principal {role}", "{role} team lead", "Supervising {role}"),
        ("Director, {role} team", "Head of {field} ({role})", "{role}, director level", "{field} director ({role})"),
    ),
    "de": (
        ("Junior {role}", "{role} als Berufseinsteiger", "Trainee: {role}"),
        ("{role}", "{role}", "{role} mit Berufserfahrung"),
        ("Senior {role}", "Erfahrener {role}", "{role} (Senior)"),
        ("Lead {role}", "Teamleitung: {role}", "{role} mit Teamleitung"),
        ("Bereichsleitung {field} ({role})", "Direktor, {role}", "{role}, Abteilungsleitung"),
    ),
    "fr": (
        ("{role} junior", "{role} débutant", "Premier emploi : {role}"),
        ("{role}", "{role}", "{role} confirmé"),
        ("{role} senior", "{role} expérimenté"),
        ("{role}, chef d'équipe", "Lead {role}", "{role} principal"),
        ("Directeur {field} ({role})", "{role}, direction", "Responsable du pôle {role}"),
    ),
    "es": (
        ("{role} junior", "{role} en prácticas", "Primer empleo: {role}"),
        ("{role}", "{role}", "{role} con experiencia"),
        ("{role} senior", "{role} sénior"),
        ("{role}, jefe de equipo", "{role} principal", "Líder: {role}"),
        ("Dirección de {field} ({role})", "{role}, dirección", "Director, equipo de {role}"),
    ),
    "pt": (
        ("{role} júnior", "{role} trainee", "Primeiro emprego: {role}"),
        ("{role}", "{role}", "{role} pleno"),
        ("{role} sênior", "{role} experiente"),
        ("{role}, líder de equipe", "{role} principal", "Líder: {role}"),
        ("Diretoria de {field} ({role})", "{role}, diretoria", "Diretor, equipe de {role}"),
    ),
}
_TITLES = {
    language: Grammar({str(seniority): titles for seniority, titles in enumerate(levels)})
    for language, levels in _LEVELS.items()
}


def position_title(draw: Draw, language: str, industry: int, role: int, seniority: int) -> str:
    """Write the title of a position, such as "Senior nurse"."""
    facts: Facts = {"role": words.ROLE_PHRASES[language][industry][role], "field": words.FIELDS[language][industry]}
    return sentence(_TITLES[language].write(str(seniority), facts, draw))


def _with_article(noun: str) -> str:
    """Write an English noun with "a" or "an"; the letters of an acronym are spelled."""
    first = noun.split()[0]
    if first[:2].isupper():
        vowel = first[0] in "AEFHILMNORSX"
    else:
        vowel = first[0].lower() in "aeio" or (first.startswith(("un", "up")) and not first.startswith("uni"))
    return f"{'an' if vowel else 'a'} {noun}"


# By industry and role: English phrases, "a nurse".
ROLES_WITH_ARTICLE = tuple(
    tuple(tuple(map(_with_article, phrases)) for phrases in industry) for industry in words.ROLE_PHRASES["en"]
)

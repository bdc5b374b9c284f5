"""Plants personal data in free text, and says which part of the text it is.

The patterns are written from how people write about themselves, not from what a detector looks for. All data are
invented: e-mail addresses use the domains of RFC 2606, and telephone numbers the ranges that are kept for fiction (US
and Canada 555-01xx; UK 020 7946 0xxx, 01632 960xxx, 07700 900xxx; Australia 5550 xxxx; Ireland 020 91x xxxx; Germany
030 23125 xxx, 089 99998 xxx, 0171 39200 xx; France 01 99 00 xx xx, 06 39 98 xx xx; Sweden 08-465 004 xx), or a range
that is not in use where a country has none.
"""

import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.language.grammar import Draw, Grammar, uniform_draws

__all__ = ["CONTACT_KINDS", "Span", "plant_contact", "plant_decoy"]

CONTACT_KINDS = ("email", "phone", "address", "link", "handle")


class Span(NamedTuple):
    """A part of a text that is personal data, in characters."""

    start: int
    end: int
    kind: str  # one of CONTACT_KINDS


# What people write around their data; `{email}` and so on are the data.
_SENTENCES: Mapping[str, tuple[str, ...]] = {
    "en": (
        "Mail me at {email}.",
        "Questions? {email}",
        "Send your CV to {email} by Friday.",
        "I answer faster on {email} than here.",
        "Old address bounced, use {email} from now on.",
        "Call {phone} after six.",
        "My number is {phone}, text first please.",
        "WhatsApp: {phone}",
        "Cell {phone}, or {email} if I am on site.",
        "Ring my desk on {phone} and ask for me.",
        "I moved to {address}, drop by for coffee.",
        "Parcels go to {address}.",
        "My home office: {address}.",
        "Pick-up at {address}, bell on the left.",
        "Full story at {link}",
        "My profile: {link}",
        "Book a slot with me: {link}",
        "CV and references under {link} (no login).",
        "Follow me, {handle}.",
        "I am {handle} everywhere.",
        "DM {handle} for the deck.",
        "Photos on my page {handle}, work stuff at {email}.",
    ),
    "de": (
        "Schreib mir an {email}.",
        "Bewerbung bitte an {email}, gern bis Freitag.",
        "Rückfragen: {email}",
        "Ruf mich an: {phone}.",
        "Mobil erreichbar unter {phone}, abends besser.",
        "Tel. {phone} oder {email}",
        "Ich wohne jetzt in der {address}.",
        "Post bitte an: {address}.",
        "Mein Profil: {link}",
        "Termine buchen: {link}",
        "Folgt mir, {handle}.",
        "Ihr findet mich als {handle}.",
    ),
    "fr": (
        "Écrivez-moi à {email}.",
        "CV à envoyer à {email} avant vendredi.",
        "Une question ? {email}",
        "Appelez-moi au {phone}.",
        "Mon portable : {phone}, plutôt le soir.",
        "Tél. {phone} ou {email}",
        "J'habite désormais {address}.",
        "Colis à livrer : {address}.",
        "Mon profil : {link}",
        "Prenez rendez-vous : {link}",
        "Suivez-moi, {handle}.",
        "On me trouve sous {handle}.",
    ),
    "es": (
        "Escríbeme a {email}.",
        "Manda tu currículum a {email} antes del viernes.",
        "¿Dudas? {email}",
        "Llámame al {phone}.",
        "Mi móvil: {phone}, mejor por la tarde.",
        "Tel. {phone} o {email}",
        "Ahora vivo en {address}.",
        "Paquetes a {address}.",
        "Mi perfil: {link}",
        "Reserva una cita: {link}",
        "Sígueme, {handle}.",
        "Me encuentras como {handle}.",
    ),
    "pt": (
        "Escreva para {email}.",
        "Mande o currículo para {email} até sexta.",
        "Dúvidas? {email}",
        "Me liga no {phone}.",
        "Meu celular: {phone}, melhor à noite.",
        "Tel. {phone} ou {email}",
        "Agora moro na {address}.",
        "Entregas em {address}.",
        "Meu perfil: {link}",
        "Marque um horário: {link}",
        "Me siga, {handle}.",
        "Sou {handle} em todo lugar.",
    ),
}
_GRAMMARS = {language: Grammar({"sentence": sentences}) for language, sentences in _SENTENCES.items()}

# `#` is a digit; `first` and `last` are names in lower case without accents, `f` and `l` their first letters.
_EMAILS = (
    "{first}.{last}@example.com",
    "{first}.{last}@example.com",
    "{f}{last}##@example.org",
    "{first}_{last}@mail.example.com",
    "{last}.{f}@example.net",
    "{first}@{last}-consulting.example",
    "{First}.{Last}@Example.com",
    "{first}+jobs@example.org",
    "{first}##@post.example.net",
    "{f}.{last}@hr.{last}group.example",
    "{first}-{last}@uni.example",
    "{first}.{last} [at] example.com",
)
_LINKS = (
    "https://www.linkedin.com/in/{first}-{last}-##a#",
    "linkedin.com/in/{first}{last}##",
    "https://github.com/{first}{l}###",
    "https://example.com/people/{first}.{last}",
    "www.example.org/u/####{f}##",
    "https://meet.example.com/{first}-{last}/30min",
    "https://jobs.example.com/cv?user={first}{last}&id=8#####",
    "https://{first}{last}.example.net/about",
)
_HANDLES = (
    "@{first}_{last}",
    "@{first}{last}##",
    "@{f}.{last}",
    "@{last}_{f}#",
    "@{first}.{last}.##",
    "@the_{first}_##",
)
_PHONES: Mapping[str, tuple[str, ...]] = {
    "en": (
        "(415) 555-01##",
        "+1 212 555 01##",
        "312-555-01##",
        "617.555.01##",
        "+1-206-555-01##",
        "1 (303) 555 01##",
        "+140455501##",
    ),
    "GB": ("020 7946 0###", "+44 20 7946 0###", "01632 960###", "07700 900###", "+44 (0)7700 900 ###", "07700 900 ###"),
    "IE": ("020 91# ####", "+353 20 91# ####"),
    "AU": ("(02) 5550 ####", "+61 2 5550 ####", "02 5550 ####"),
    "IN": ("+91 55500 0####", "055500 0####", "+91-55500-0####"),
    "SE": ("08-465 004 ##", "+46 8 465 004 ##"),
    "de": (
        "030 23125 ###",
        "030/23125###",
        "+49 30 23125-###",
        "0171 39200##",
        "+49 (0)89 99998-###",
        "089 - 99 99 8# ##",
    ),
    "fr": (
        "01 99 00 ## ##",
        "06 39 98 ## ##",
        "+33 1 99 00 ## ##",
        "01.99.00.##.##",
        "+33 (0)6 39 98 ## ##",
        "063998####",
    ),
    "es": ("555 01 ## ##", "+34 555 01 ## ##", "555 010 1##", "+34 555010###", "0034 555 01 ## ##"),
    "pt": ("(20) 95550-01##", "+55 20 95550-01##", "20 95550 01##", "+55 (20) 95550-01##"),
}
_STREETS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "{n} Willow Street, Apt #B, Springfield, IL 627##",
        "1{n} Maple Avenue, Columbus, OH 432##",
        "{n}2 W. Harbor Blvd., Suite 2##, San Diego, CA 921##",
        "{n} Cedar Lane, Austin, TX 787##-1###",
        "P.O. Box 1##, Burlington, VT 054##",
    ),
    "GB": (
        "{n} Marlowe Road, Leeds LS1 #AB",
        "Flat #, {n} Kestrel Court, London SE15 #QT",
        "{n} Mill Lane, Bristol BS3 #XD",
    ),
    "IE": ("{n} Harcourt Terrace, Dublin 2", "{n} Patrick's Hill, Cork"),
    "CA": ("{n} Maple Crescent, Toronto, ON M5V #T6", "{n}1 Granville Street, Vancouver, BC V6Z #K3"),
    "AU": ("{n} Banksia Street, Brisbane QLD 40##", "Unit #, {n} Wattle Road, Richmond VIC 31##"),
    "IN": ("Flat 3##, {n} MG Road, Bengaluru 5600##", "{n}, Lake View Apartments, Andheri West, Mumbai 4000##"),
    "NL": ("Keizersgracht 1##, 10## CX Amsterdam",),
    "SE": ("Lindgatan {n}, 112 ## Stockholm",),
    "de": (
        "Lindenstraße {n}, 109## Berlin",
        "Am Mühlbach {n}a, 803## München",
        "Schillerstr. {n}, 506## Köln",
        "Hauptstraße {n}, 2. OG, 203## Hamburg",
    ),
    "fr": (
        "{n} rue des Lilas, 690## Lyon",
        "{n} bis avenue de la Gare, 310## Toulouse",
        "{n}, boulevard Voltaire, 750## Paris",
    ),
    "es": (
        "Calle del Olivo {n}, 2º B, 280## Madrid",
        "Avda. de la Paz, {n}, 080## Barcelona",
        "C/ Mayor {n}, 460## Valencia",
    ),
    "pt": ("Rua das Flores, {n}, apto 4#, São Paulo - SP, 013##-000", "Av. Atlântica, {n}0, Rio de Janeiro, 220##-010"),
}

# Not personal data, though full of numbers and signs.
_DECOYS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "Version 3.11.{n} is out.",
        "ISO 27001 certified since 20{n}.",
        "Revenue grew to 4,2{n},000 in 2024.",
        "Ticket 2024-11{n} is closed.",
        "Open Mon-Fri 9:00-17:30.",
        "We meet @ 3 pm in room 4.{n}.",
        "Chapter 12-14, pages 201-2{n}.",
        "The 401k match is {n} percent.",
        "Deadline 2025-03-{n}, 18:00 CET.",
        "Ranked 7 of 1,2{n} firms.",
        "We moved 200 services in {n} days.",
    ),
    "de": (
        "Version 3.11.{n} ist da.",
        "Umsatz: 4.2{n}.000 Euro.",
        "Mo-Fr 9:00-17:30 Uhr geöffnet.",
        "Raum 4.{n}, Etage 2.",
    ),
    "fr": ("La version 3.11.{n} est sortie.", "Chiffre d'affaires : 4 2{n} 000 euros.", "Ouvert de 9h00 à 17h30."),
    "es": ("Ya está la versión 3.11.{n}.", "Ventas: 4.2{n}.000 euros.", "Abierto de 9:00 a 17:30."),
    "pt": ("Saiu a versão 3.11.{n}.", "Receita: 4.2{n}.000 reais.", "Aberto das 9:00 às 17:30."),
}


def plant_contact(rng: np.random.Generator, text: str, locale: str) -> tuple[str, tuple[Span, ...]]:
    """Add a sentence with personal data to a text, before or after it.

    Args:
        rng: Draws the sentence and the data.
        text: Free text of a member.
        locale: Such as "de_DE"; the sentence is in its language, numbers and addresses in the format of its country.

    Returns:
        The new text, and its spans of personal data; one or two.
    """
    draw = uniform_draws(rng)
    data = _personal_data(draw, locale)
    # The sentence is written with a marker for each kind first, so that it is known which kinds it has.
    markers = {kind: f"<{kind}>" for kind in CONTACT_KINDS}
    contact = _GRAMMARS[words.language_of(locale)].write("sentence", markers, draw)
    kinds = [kind for kind, marker in markers.items() if marker in contact]
    for kind in kinds:
        contact = contact.replace(markers[kind], data[kind])
    before, after = (f"{text} ", "") if draw() < 0.75 else ("", f" {text}")
    planted = f"{before}{contact}{after}" if text else contact
    starts = [planted.index(data[kind]) for kind in kinds]
    spans = tuple(Span(start, start + len(data[kind]), kind) for start, kind in zip(starts, kinds, strict=True))
    return planted, spans


def plant_decoy(rng: np.random.Generator, text: str, locale: str) -> str:
    """Add a sentence with numbers that are not personal data to a text, to measure the precision of a detector."""
    draw = uniform_draws(rng)
    decoy = _choice(_DECOYS[words.language_of(locale)], draw).replace("{n}", str(10 + int(draw() * 18)))
    return f"{text} {decoy}"


def _personal_data(draw: Draw, locale: str) -> dict[str, str]:
    """Draw personal data of one person, by kind."""
    language, country = words.language_of(locale), locale.partition("_")[2]
    names = locale if locale in words.FIRST_NAMES else words.LOCALES[0]
    first, last = (_ascii(_choice(table[names], draw)) for table in (words.FIRST_NAMES, words.LAST_NAMES))
    fields = {"first": first, "last": last, "f": first[0], "l": last[0], "First": first.title(), "Last": last.title()}
    phones, streets = (table.get(country, table[language]) for table in (_PHONES, _STREETS))
    number = str(1 + int(draw() * 98))
    return {
        "email": _digits(_choice(_EMAILS, draw).format(**fields), draw),
        "phone": _digits(_choice(phones, draw), draw),
        "address": _digits(_choice(streets, draw).format(n=number), draw),
        "link": _digits(_choice(_LINKS, draw).format(**fields), draw),
        "handle": _digits(_choice(_HANDLES, draw).format(**fields), draw),
    }


def _choice(options: tuple[str, ...], draw: Draw) -> str:
    return options[int(draw() * len(options))]


def _digits(pattern: str, draw: Draw) -> str:
    return "".join(str(int(draw() * 10)) if character == "#" else character for character in pattern)


def _ascii(name: str) -> str:
    """Write a name as in an address: lower case, no accents, no spaces."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("ß", "ss"))
    return "".join(character for character in plain if "a" <= character <= "z")

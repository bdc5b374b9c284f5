"""Detectors of contacts: links with an identifier, e-mail addresses, telephone numbers and social handles.

Prices, years, dates, scores, ids, and names such as `booking.com` are not contacts. A number of ten digits that stands
alone is kept: it is an id more often than a telephone number. A name such as `@Acme` is kept where nothing says that it
is an account.
"""

import re

from brew_data.privacy.detector import (
    EMAIL,
    GAP,
    HANDLE,
    LINK,
    PHONE,
    Detector,
    Span,
    digit_count,
    follows_id_word,
    is_date_or_years,
    value_span,
)

__all__ = ["CONTACT_DETECTORS", "HANDLE_DETECTORS", "SPELLED_DOTS"]

# Links

_PROFILE_HOSTS = (
    "linkedin.com", "lnkd.in", "xing.com", "github.com", "gitlab.com", "facebook.com", "fb.com", "instagram.com",
    "twitter.com", "x.com", "threads.net", "tiktok.com", "youtube.com", "medium.com", "t.me", "telegram.me", "wa.me",
    "linktr.ee", "calendly.com", "signal.me", "bsky.app", "about.me", "behance.net", "dribbble.com", "vk.com",
    "kaggle.com", "orcid.org", "researchgate.net", "stackoverflow.com", "paypal.me", "snapchat.com", "pinterest.com",
    "reddit.com",
)  # fmt: skip
_PERSONAL_HOSTS = (  # of which every name below is an account
    "github.io", "gitlab.io", "substack.com", "medium.com", "wordpress.com", "blogspot.com", "tumblr.com",
    "wixsite.com", "netlify.app", "vercel.app", "bsky.social", "carrd.co", "hashnode.dev",
)  # fmt: skip
_DOMAINS = "com|org|net|me|co|eu|uk|de|fr|es|it|nl|pl|se|ch|br|jp|app|dev|ly|gg|page|social|link"
_NOT_PERSONAL = "www|blog|help|support|developer|docs|about|jobs|careers"
_TAIL = r"[^\s<>\"]*[^\s<>\".,;:!?)\]}']"  # the end of a link, without the punctuation of the sentence
_LINK = re.compile(
    rf"""(?:
        (?:(?:https?|ftp)://|(?<![\w.-])www\.)[^\s/?\#<>"]++[/?\#]{_TAIL}
      | (?<![\w.@-])(?:[\w-]++\.)*?(?:{"|".join(map(re.escape, _PROFILE_HOSTS))})/{_TAIL}
      | (?:https?://)?(?<![\w.@-])(?!(?:{_NOT_PERSONAL})\.)[\w-]++\.(?:{"|".join(map(re.escape, _PERSONAL_HOSTS))})
        (?![\w-])(?:/{_TAIL})?
      | (?<![\w.@/-])(?:[\w-]++\.)++(?-i:{_DOMAINS})/(?=[^\s<>"]{{0,200}}[\d_@=?/-]){_TAIL}
      | \blinkedin\W{{1,3}}/?in/{_TAIL}
      | (?:https?://)?(?<![\w.@-])[a-z]{{2,20}}-[a-z]{{2,20}}\.(?:me|name|blog|page)(?![\w-])(?:/{_TAIL})?
      | \bskype:{_TAIL}
    )""",
    re.IGNORECASE | re.VERBOSE,
)

# E-mail addresses

_LOCAL = r"[\w.+%&'~!#$*=-]"
_DOT_WORDS = ("dot", "punto", "ponto", "punkt", "point")
_AT_WORD, _DOT_WORD = "(?:at|arroba)", f"(?:{'|'.join(_DOT_WORDS)})"
_AT = rf"(?:[@\uff20]|\ ?[\[({{<]\ ?(?:{_AT_WORD}|@)\ ?[\])}}>]\ ?)"
_DOT = rf"(?:[.\uff0e]|\ ?[\[({{<]\ ?(?:{_DOT_WORD}|\.)\ ?[\])}}>]\ ?)"
_EMAIL = re.compile(
    rf"(?:mailto:|@)?(?<!{_LOCAL})(?:{_LOCAL}++\ ?[\[({{<]\ ?{_DOT_WORD}\ ?[\])}}>]\ ?){{0,3}}{_LOCAL}++{_AT}"
    rf"(?:[\w-]++{_DOT})+[^\W\d_][\w-]*+",
    re.IGNORECASE | re.VERBOSE,
)
_SPELLED_EMAIL = re.compile(
    rf"(?<![\w.+-])(?P<local>[\w.+-]{{1,64}}(?: {_DOT_WORD} [\w+-]{{1,40}}){{0,3}}) {_AT_WORD} "
    rf"(?:[\w-]{{1,40}} {_DOT_WORD} ){{1,3}}[^\W\d_]{{2,12}}(?![\w-])",
    re.IGNORECASE,
)
_MAIL_WORD = re.compile(
    r"\b(?:e-?mail|mail|write|reach|contact|correo|courriel|escr[i\u00ed]be|\u00e9cri|schreib)\w{0,6}\b[^.;]{0,25}$",
    re.IGNORECASE,
)


def _spelled_email(match: re.Match[str]) -> Span | None:
    local = match["local"]
    has_form = not local.isalpha()
    before = max(0, match.start() - 35)
    return match.span() if has_form or _MAIL_WORD.search(match.string, before, match.start()) else None


# Telephone numbers

_DASH = r"[-.\ \u2010-\u2013]"
_DIGIT = rf"{GAP}?\(?\d(?:\)(?={GAP}?\d))?"
_ALONE, _END = r"(?<![\w+.,\#$\u20ac\u00a3\u00a5/-])", r"(?!\w|[-.,/]\d)"
_EXTENSION = r"(?:,?\ ?(?:ext|extension|x|durchwahl)\.?\ ?\d{1,5})?"
_INTERNATIONAL = re.compile(
    rf"(?<![\w+-])\(?\+\ ?[1-9]\)?(?:{_DIGIT}){{7,14}}{_EXTENSION}(?!\w)", re.IGNORECASE | re.VERBOSE
)
_NORTH_AMERICAN = re.compile(
    rf"{_ALONE}(?:1{_DASH})?(?:\([2-9]\d\d\)\ ?|[2-9]\d\d{_DASH})[2-9]\d\d{_DASH}\d{{4}}{_EXTENSION}{_END}",
    re.IGNORECASE | re.VERBOSE,
)
_NATIONAL = re.compile(rf"{_ALONE}(?:\(0\d{{1,5}}\)\ ?|0\d{{1,5}}{GAP})\d(?:{GAP}?\d){{4,11}}{_END}", re.VERBOSE)
# Without gaps: of 11 or 12 digits, or of a French mobile; an ISBN has 10. And `(11) 91234-5678`
_TOGETHER = re.compile(rf"{_ALONE}(?:0[1-9]\d{{9,10}}|0[67]\d{{8}}|\(\d\d\)\ ?\d{{4,5}}-\d{{4}}){_END}", re.VERBOSE)
_CUED_PHONE = re.compile(
    rf"""\b(?:tel|telephone|telefon(?:nummer)?|telefono|tel[\u00e9e]fono|t[\u00e9]l|t[\u00e9]l[\u00e9]phone|phone|call
          |mobile|mobil(?:nummer)?|m[\u00f3o]vil|telem[\u00f3o]vel|celular|cellulare|portable|cell|fax|whatsapp|zap|viber
          |sms|handy(?:nummer)?|hotline|dial|durchwahl|rufnummer
          |\u0442\u0435\u043b|\u0442\u0435\u043b\u0435\u0444\u043e\u043d
          |telefone|(?P<plain>(?:reach|text|ring|contact|message|ping)\ (?:me|us)|(?:my|direct)\ (?:number|line)
          |ll[a\u00e1]m(?:a|e|ame|anos|ad|en|enme)|contacto|cont[a\u00e1]ct(?:ame|enos)|contacte|contato
          |n[u\u00fa]mero|lig(?:ue|a|ar|uem)(?:\ me|-me|-nos)?|joignable
          |(?:join(?:dre|ez)|contactez|appel(?:ez|le|er))(?:-moi|-nous)?|num[e\u00e9]ro|erreichbar
          |ruf(?:en\ sie)?\ (?:mich|uns|einfach)(?:\ an)?|nummer|anrufen|erreichen))
        \b[.:,\ ]*+
        (?:(?:me|us|on|at|no|nr|n\u00ba|number|under|unter|is|ist|es|est|\u00e9|al|au|a|en|em|para|pelo|no|ao
            |[o\u00f3]|sur|auf|sie|mich|uns|sous|por\ favor|por|nous|moi|my|mein|meine|mon|mi|meu|der|le|el)
            \b[.:,\ ]*+){{0,4}}
        (?P<value>\(?\d\)?(?:{_DIGIT}){{6,14}}){_END}""",
    re.IGNORECASE | re.VERBOSE,
)
# Spanish, Portuguese and Brazilian numbers, which can also be amounts: in `612 345 678`, a word says what it is.
_SPACED = re.compile(
    rf"""{_ALONE}(?:(?P<amount>[2679]\d\d([-.\ ])\d{{3}}\2\d{{3}})
        |[679]\d\d([-.\ ])\d\d\3\d\d\3\d\d|9\d\ \d{{3}}\ \d\d\ \d\d|[1-9]\d\ 9\d{{4}}[-\ ]\d{{4}}
        |2\d\ \d{{3}}\ \d{{4}}){_END}""",
    re.VERBOSE,
)
_PHONE_WORD = re.compile(
    r"\b(?:phone|call|mobile|cell|whatsapp|sms|text|ring|dial|tel|telefon|t[e\u00e9]l|t[e\u00e9]l[e\u00e9]phone|portable"
    r"|tel[e\u00e9]fono|m[o\u00f3]vil|telefone|telem[o\u00f3]vel|celular|ll[a\u00e1]m\w{1,5}|lig(?:ue|a|ar)|handy|mobil"
    r"|n[u\u00fa]mero|num[e\u00e9]ro|number|contact\w{0,3}|contato)\b",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"\+?[1-9]\d{0,2}([ .])\d{3}(?:\1\d{3})?")


def _phone(match: re.Match[str]) -> Span | None:
    """Accept digits in the form of a telephone number that are not an amount, a date or years."""
    span = value_span(match)
    number = match.string[slice(*span)]
    named = match.groupdict()
    is_cued = named.get("plain") or named.get("amount") or ":" in match.string[match.start() : span[0]]
    is_amount = _THOUSANDS.fullmatch(number) and not is_cued
    return None if is_amount or is_date_or_years(number) else span


def _local_phone(match: re.Match[str]) -> Span | None:
    return None if follows_id_word(match.string, match.start()) else _phone(match)


def _spaced_phone(match: re.Match[str]) -> Span | None:
    """Accept three groups of three digits only near a word for a telephone; other forms are not those of amounts."""
    text, start, end = match.string, match.start(), match.end()
    near = text[max(0, start - 45) : start].rpartition(". ")[2] + text[end : end + 15]
    return _local_phone(match) if match["amount"] is None or _PHONE_WORD.search(near) else None


def _national_phone(match: re.Match[str]) -> Span | None:
    return _local_phone(match) if digit_count(match[0]) >= 9 else None


# Social handles

_HANDLE = re.compile(r"(?<![\w@.\uff20])[@\uff20](?P<name>[^\W\d][\w.-]{1,29})(?![\w@/])")
_SERVICES = (
    "telegram", "instagram", "insta", "twitter", "skype", "discord", "snapchat", "wechat", "signal", "threads",
    "mastodon", "tiktok", "github", "gitlab", "bluesky", "linkedin", "xing",
)  # fmt: skip
_CUED_HANDLE = re.compile(
    rf"\b(?:{'|'.join(_SERVICES)})(?P<noun> (?:handle|id|name|user ?name|user|account|usuario|konto))?"
    r"(?: ?[:=] ?| (?:is|ist|es|est|\u00e9):? | )(?P<value>@?[^\W\d][\w.#-]{2,30})",
    re.IGNORECASE,
)
_HANDLE_ON_SERVICE = re.compile(
    rf"(?<![\w.@-])(?P<value>(?=\w{{1,30}}_\w|[a-z]{{3,30}}\.[a-z]{{3}})[^\W\d][\w.-]{{2,30}})"
    rf"(?= (?:on|auf|sur|en|no|na|em) (?:{'|'.join(_SERVICES)})\b)",
    re.IGNORECASE,
)
_ACCOUNT_FORM = re.compile(r"[^\W_]_[^\W_]|[^\W\d_]{3}\d{2}|#\d|[a-z]{3}\.[a-z]{3}", re.IGNORECASE)
_ACCOUNT_WORD = re.compile(
    r"\b(?:follow|handle|account|twitter|insta|instagram|ig|telegram|tiktok|threads|github|mastodon|bluesky|snapchat|"
    r"discord|skype|dm|find me|add me)(?: \w{1,9}){0,3}[:=]? ?\(?$",
    re.IGNORECASE,
)
_NOT_ACCOUNTS = {  # code, and words of messages
    "all", "autowired", "bean", "channel", "classmethod", "component", "configuration", "dataclass", "entity",
    "everyone", "font-face", "here", "home", "host", "import", "injectable", "input", "keyframes", "media", "override",
    "param", "property", "pytest", "return", "scale", "service", "staticmethod", "suppresswarnings", "table", "team",
    "test", "todo", "transactional", "work",
}  # fmt: skip


def _handle(match: re.Match[str]) -> Span | None:
    """Accept the name of an account, and neither code such as `@Override` nor an organization such as `@Acme`."""
    name = match["name"].rstrip(".-")
    if len(name) < 3 or name.lower() in _NOT_ACCOUNTS:
        return None
    span = match.start(), match.start("name") + len(name)
    is_plain_name = name[0].isupper() and name[1:].islower() and name.isalpha()
    if is_plain_name and not _ACCOUNT_WORD.search(match.string, max(0, match.start() - 30), match.start()):
        return None
    return span


def _cued_handle(match: re.Match[str]) -> Span | None:
    name = match["value"].rstrip(".-#")
    is_host = name.lower().endswith((".com", ".org", ".net", ".io"))
    if len(name) < 4 or is_host:
        return None
    if not (match.groupdict().get("noun") or name.startswith("@") or _ACCOUNT_FORM.search(name)):
        return None
    return match.start("value"), match.start("value") + len(name)


SPELLED_DOTS = tuple(f" {word} " for word in _DOT_WORDS)
_LINK_HINTS = (
    "://", "www.", "skype:", ".ee/", ".in/", *(f".{domain}/" for domain in _DOMAINS.split("|")),
    "linkedin", ".me", ".name", ".blog", ".page", *(f".{host}" for host in _PERSONAL_HOSTS),
)  # fmt: skip
_PHONE_HINTS = (
    "tel", "t\u00e9l", "phone", "call", "mobil", "m\u00f3vil", "cel", "portable", "fax", "whatsapp", "viber", "sms",
    "handy", "hotline", "\u0442\u0435\u043b", " me ", " us ", "llam", "ll\u00e1m", "mero", "lig", "zap", "dial",
    "joi", "appel", "contact", "contat", "cont\u00e1ct", "erreich", "ruf", "nummer", "durchwahl", "number", " line",
)  # fmt: skip
_AT_HINTS = ("@", "\uff20", *(f"{end}{bracket}" for end in ("at", "at ", "arroba", "arroba ") for bracket in ")]}>"))

CONTACT_DETECTORS = (
    Detector(LINK, _LINK, hints=_LINK_HINTS),
    Detector(EMAIL, _EMAIL, hints=_AT_HINTS),
    Detector(EMAIL, _SPELLED_EMAIL, _spelled_email, hints=SPELLED_DOTS),
    Detector(PHONE, _INTERNATIONAL, _phone, digits=8, hints=("+",)),
    Detector(PHONE, _NORTH_AMERICAN, _local_phone, digits=10),
    Detector(PHONE, _NATIONAL, _national_phone, digits=9, hints=("0",)),
    Detector(PHONE, _TOGETHER, _local_phone, digits=10),
    Detector(PHONE, _SPACED, _spaced_phone, digits=9),
    Detector(PHONE, _CUED_PHONE, _phone, digits=7, hints=_PHONE_HINTS),
)
HANDLE_DETECTORS = (
    Detector(HANDLE, _CUED_HANDLE, _cued_handle, hints=_SERVICES),
    Detector(HANDLE, _HANDLE_ON_SERVICE, _cued_handle, hints=_SERVICES),
    Detector(HANDLE, _HANDLE, _handle, hints=("@", "\uff20")),
)

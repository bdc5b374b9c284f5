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

__all__ = ["CONTACT_DETECTORS", "HANDLE_DETECTORS"]

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
      | \bskype:{_TAIL}
    )""",
    re.IGNORECASE | re.VERBOSE,
)

# E-mail addresses

_LOCAL = r"[\w.+%&'~!#$*=-]"
_AT = r"(?:[@\uff20]|\ ?[\[({<]\ ?(?:at|@)\ ?[\])}>]\ ?)"
_DOT = r"(?:[.\uff0e]|\ ?[\[({<]\ ?(?:dot|\.)\ ?[\])}>]\ ?)"
_EMAIL = re.compile(
    rf"(?:mailto:|@)?(?<!{_LOCAL})(?:{_LOCAL}++\ ?[\[({{<]\ ?dot\ ?[\])}}>]\ ?){{0,3}}{_LOCAL}++{_AT}"
    rf"(?:[\w-]++{_DOT})+[^\W\d_][\w-]*+",
    re.IGNORECASE | re.VERBOSE,
)
_SPELLED_EMAIL = re.compile(
    r"(?<![\w.+-])(?P<local>[\w.+-]{1,64}(?: dot [\w+-]{1,40}){0,3}) at (?:[\w-]{1,40} dot ){1,3}"
    r"[^\W\d_]{2,12}(?![\w-])",
    re.IGNORECASE,
)
_MAIL_WORD = re.compile(r"\b(?:e-?mail|mail|write|reach|contact|correo|courriel)\b[^.;]{0,25}$", re.IGNORECASE)


def _spelled_email(match: re.Match[str]) -> Span | None:
    local = match["local"]
    has_form = " dot " in local.lower() or any(not character.isalpha() for character in local)
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
_CUED_PHONE = re.compile(
    rf"""\b(?:tel|telephone|telefon|telefono|tel[\u00e9e]fono|t[\u00e9]l|t[\u00e9]l[\u00e9]phone|phone|call|mobile|mobil
          |m[\u00f3o]vil|celular|cellulare|portable|cell|fax|whatsapp|viber|sms|handy|hotline
          |\u0442\u0435\u043b|\u0442\u0435\u043b\u0435\u0444\u043e\u043d
          |(?:reach|text|ring|contact|message|ping)\ me)\b[.:\ ]*+
        (?:(?:me|us|on|at|no|nr|number|under|is)\b[.:\ ]*+){{0,3}}
        (?P<value>\(?\d\)?(?:{_DIGIT}){{6,14}}){_END}""",
    re.IGNORECASE | re.VERBOSE,
)
_THOUSANDS = re.compile(r"\+?[1-9]\d{0,2}([ .])\d{3}(?:\1\d{3})?")


def _phone(match: re.Match[str]) -> Span | None:
    """Accept digits in the form of a telephone number that are not an amount, a date or years."""
    span = value_span(match)
    number = match.string[slice(*span)]
    return None if _THOUSANDS.fullmatch(number) or is_date_or_years(number) else span


def _local_phone(match: re.Match[str]) -> Span | None:
    return None if follows_id_word(match.string, match.start()) else _phone(match)


def _national_phone(match: re.Match[str]) -> Span | None:
    return _local_phone(match) if digit_count(match[0]) >= 9 else None


# Social handles

_HANDLE = re.compile(r"(?<![\w@.\uff20])[@\uff20](?P<name>[^\W\d][\w.-]{1,29})(?![\w@/])")
_CUED_HANDLE = re.compile(
    r"\b(?:telegram|instagram|insta|ig|twitter|skype|discord|snapchat|wechat|signal|threads|mastodon|tiktok|github|"
    r"gitlab|bluesky|linkedin|xing)(?P<noun> (?:handle|id|name|user ?name|user|account))?(?: is)? ?[:=] ?"
    r"(?P<value>@?[^\W\d][\w.#-]{2,30})",
    re.IGNORECASE,
)
_ACCOUNT_FORM = re.compile(r"[_\d#]|[a-z]{3}\.[a-z]{3}")
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
    if len(name) < 4 or is_host or not (match["noun"] or name.startswith("@") or _ACCOUNT_FORM.search(name)):
        return None
    return match.start("value"), match.start("value") + len(name)


_LINK_HINTS = (
    "://", "www.", "skype:", ".ee/", ".in/", *(f".{domain}/" for domain in _DOMAINS.split("|")),
    *(f".{host}" for host in _PERSONAL_HOSTS),
)  # fmt: skip
_PHONE_HINTS = (
    "tel", "t\u00e9l", "phone", "call", "mobil", "m\u00f3vil", "cel", "portable", "fax", "whatsapp", "viber", "sms",
    "handy", "hotline", "\u0442\u0435\u043b", " me ",
)  # fmt: skip
_AT_HINTS = ("@", "\uff20", *(f"at{space}{bracket}" for space in ("", " ") for bracket in ")]}>"))

CONTACT_DETECTORS = (
    Detector(LINK, _LINK, hints=_LINK_HINTS),
    Detector(EMAIL, _EMAIL, hints=_AT_HINTS),
    Detector(EMAIL, _SPELLED_EMAIL, _spelled_email, hints=(" dot ",)),
    Detector(PHONE, _INTERNATIONAL, _phone, digits=8, hints=("+",)),
    Detector(PHONE, _NORTH_AMERICAN, _local_phone, digits=10),
    Detector(PHONE, _NATIONAL, _national_phone, digits=9, hints=("0",)),
    Detector(PHONE, _CUED_PHONE, _phone, digits=7, hints=_PHONE_HINTS),
)
HANDLE_DETECTORS = (
    Detector(HANDLE, _CUED_HANDLE, _cued_handle, hints=(":", "=")),
    Detector(HANDLE, _HANDLE, _handle, hints=("@", "\uff20")),
)

"""Detectors of postal addresses, in the forms of several countries.

The words for streets decide. Words that are rarely anything else (`Street`, `straße`, `rue`, `Calle`) need a
number and a name. Others (`Place`, `Court`, `Square`) also need a postcode, or a word such as `Address:` before them. A
city with its postcode alone is kept.
"""

import re
from typing import NamedTuple

from brew_data.privacy.detector import ADDRESS, Detector, Span, value_span

__all__ = ["ADDRESS_DETECTORS"]

_NAME = r"(?![a-z\u00df-\u00f6\u00f8-\u00ff])[^\W\d_][\w'\u2019-]{0,24}"  # starts with no small letter
_ANY = r"[^\W\d_][\w'\u2019-]{0,24}"
_UNIT_WORDS = "apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|building|bldg|level"
_UNIT = (
    rf"(?:,? (?:(?i:{_UNIT_WORDS})\.? ?#?\w{{1,6}}|#\w{{1,4}}(?:-\d{{1,4}})?|\d{{1,2}}(?:st|nd|rd|th) (?i:floor))\b)?"
)
_COUNTRY = (
    r"(?:,? (?:USA|US|UK|United States|United Kingdom|England|Scotland|Wales|Ireland|Canada|Australia|Germany"
    r"|Deutschland|France|Spain|Espa\u00f1a|Italy|Italia|Netherlands|Nederland|Austria|\u00d6sterreich|Switzerland"
    r"|Schweiz|Poland|Polska|Sweden|Sverige|Denmark|Danmark|Norway|Norge|Portugal|Brazil|Brasil|India|Singapore"
    r"|Mexico|M\u00e9xico)\b)?"
)
_POSTCODE = (  # not the number of anything else: neither a year nor so many thousands
    r"(?:[A-Z]{1,2}-)?(?!\d\d000\b)\d{5}(?:-\d{3,4})?|(?:NSW|VIC|QLD|WA|SA|TAS|ACT|NT) \d{4}"
    r"|(?!(?:19|20)\d\d\b)\d{4}(?: [A-Z]{2})?|\d{3} \d{2,3}|(?!\d{3}000\b)\d{6}|\d\d-\d{3}"
    r"|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
)


def _place(name: str, least: int = 0) -> str:
    """City, region and postcode after a street, in either order, and the country; `least` words before the postcode."""
    return rf"(?:,? {name}\.?){{{least},6}}?,? (?:{_POSTCODE})(?!\w)(?: {name}(?: {name})?)?{_COUNTRY}"


_CITY_AT_END = rf"(?:, {_NAME}(?: {_NAME}){{0,2}}){{1,3}}(?= ?[;)!?]|\.(?: |$)|$)"
_TAIL = rf"{_UNIT}(?:{_place(_NAME)}|{_CITY_AT_END})?"

# `12 Oak Street`
_STRONG = r"(?:(?i:street|avenue|road|lane|boulevard|crescent|mews|parkway)\b|(?i:st|ave|rd|ln|blvd|pkwy)\b\.?+)"
_USUAL = r"(?i:drive|dr|way|terrace)\b\.?(?=$|[,;:!?)]|\.(?: |$))"  # verbs and nouns, except before a comma or the end
_WEAK = (
    r"(?:(?i:drive|way|terrace|court|place|square|close|highway|gardens|grove|row|hill|quay|circle|park|walk|view|rise"
    r"|trail|alley|path|heights|house)\b|(?i:dr|ct|pl|sq|hwy)\b\.?+)"
)
# `12 Wall Street banks` and the title `21 Jump Street (2012)` are not addresses.
_NO_NOUN = (
    r"(?! (?!(?:in|and|or|near|opposite|next|is|at|for|from|on|by|to|until|since|if|with)\b)[a-z])(?! \((?:19|20)\d\d)"
)


def _english(name: str, words: str, most: int = 4) -> str:
    house = r"\d{1,5}[A-Za-z]?(?:[-/]\d{1,4}[A-Za-z]?)?,? (?:(?:North|South|East|West|[NS][EW]?|[EW])\.? )?"
    return rf"{house}(?:{name}\.? |\d{{1,3}}(?:st|nd|rd|th) ){{1,{most}}}?(?:{words})"


# `12 rue de la Paix`
_PARTICLE = (
    r"(?:(?i:de la|de l['\u2019]|des|del|della|delle|de|du|d['\u2019]|les|la|le|l['\u2019]|dos|das|do|da|di|of the"
    r"|of) ?)?"
)
_RUE = r"(?i:rue|avenue|av\.|boulevard|bd\.?|impasse|quai|chemin|all\u00e9e|faubourg)"
_RUE_OR_PLACE = rf"(?:{_RUE}|(?i:place|cours|route|square|villa))"


def _french(name: str, words: str) -> str:
    house = r"\d{1,4}(?: ?(?:bis|ter|quater)\b|[A-D]\b)?,? "
    return rf"{house}{words} {_PARTICLE}{name}(?:[ -]{_PARTICLE}{name}){{0,3}}"


# The number last: `Hauptstraße 12`, `Berliner Str. 5`, `Calle de la Princesa 12`, `ul. Marszałkowska 3/5`
_NUMBER = r"\d{1,4}(?: ?[a-zA-Z]\b)?(?:[-/]\d{1,4}[A-Za-z]?)?(?!\w|[.,]\d)"
_JOINED = (
    r"(?<!\w)[^\W\d_][\w-]{1,30}?(?:(?<=\w) )?"
    rf"(?i:stra\u00dfe|strasse|str\.|gasse|allee|straat|laan|gracht|kade|gatan|v\u00e4gen)\.? ?{_NUMBER}"
)
_PREFIXED = (
    r"(?<!\w)(?:Calle|C/ |Carrer|Avenida|Avda\.?|Rua|Travessa|Pra\u00e7a|Rambla|Viale|Strada|ul\.|ulica|Ul\."
    rf"|\u0443\u043b\.|\u0443\u043b\u0438\u0446\u0430) ?{_PARTICLE}{_NAME}\.?(?: {_PARTICLE}{_NAME}\.?){{0,4}},? "
    rf"(?:(?i:n[\u00ba\u00b0o]|nr|\u0434)\.? ?)?{_NUMBER}"
)
# `Am Markt 3, 10115 Berlin`: any name, because postcode and city follow at once
_BEFORE_POSTCODE = (
    rf"(?<!\w){_NAME}(?: {_PARTICLE}{_NAME}){{0,3}},? {_NUMBER}, ?(?:{_POSTCODE})(?!\w) {_NAME}(?: {_NAME})?{_COUNTRY}"
)

_BOX = r"(?<!\w)(?i:p\. ?o\. ?box|po box|postfach|apartado(?: de correos)?|casilla)\.? (?i:no\.? )?\d{1,6}\b"
_HAN, _KANA = r"[\u4e00-\u9fff]", r"[\u3040-\u30ff\u4e00-\u9fff]"
_EAST_ASIAN = (  # Japanese by postcode, Japanese by ward, Chinese by road
    r"\u3012 ?\d{3}-?\d{4}(?:[ \u3000]?[^\s,.;:()\u3002]{1,60})?"
    rf"|{_HAN}{{1,4}}[\u90fd\u9053\u5e9c\u770c]{_KANA}{{1,12}}?[\u533a\u5e02\u753a\u6751]{_KANA}{{0,15}}\d{{1,4}}"
    r"(?:(?:-|\u4e01\u76ee|\u756a\u5730?|\u53f7)\d{0,4}){0,3}"
    rf"|{_HAN}{{2,20}}[\u8def\u8857\u5df7\u5f04]\d{{1,5}}[\u53f7\u865f](?:[\u4e00-\u9fff\d]{{0,20}}[\u5ba4\u697c])?"
)

_NOUN_CUE = (
    r"\b(?i:(?:my|home|postal|mailing|our|office|street) address|address(?= ?:)|(?:post|wohn)?(?:adresse|anschrift)"
    r"|direcci[o\u00f3]n|endere[c\u00e7]o|indirizzo|domicilio|wohnhaft in)\b[: ]{1,3}(?i:is |at )?"
)
_VERB_CUE = (
    r"\b(?i:live[sd]? at|living at|resid(?:e[sd]?|ing) at|located at|based at|office (?:is )?at|home is(?: at)?"
    r"|(?:visit|find|meet|see) (?:me|us) at|(?:mail|post|ship|deliver|write) to|stop by|drop (?:by|in)(?: at)?"
    r"|come to) "
)

_YEAR_BEFORE_STREET = re.compile(r"(?:19|20)\d\d,? ")
_TIME_WORD = re.compile(r"\b(?:in|since|from|of|until|by|year) $", re.IGNORECASE)
_UNIT_BEFORE = re.compile(rf"\b(?:{_UNIT_WORDS}|house|plot|door)\.? (?:no\.? )?#?\w{{1,5}}, ?$", re.IGNORECASE)
_BEFORE = 30  # characters that are searched before the number


def _address(match: re.Match[str]) -> Span | None:
    """Accept an address; one that starts with its number includes the flat before it."""
    (start, end), text = value_span(match), match.string
    if text[start].isdecimal():
        before = max(0, start - _BEFORE)
        if start and (text[start - 1].isalnum() or text[start - 1] in "._,/$\u20ac\u00a3+-"):
            return None
        if _YEAR_BEFORE_STREET.match(text, start) and _TIME_WORD.search(text, before, start):
            return None
        if unit := _UNIT_BEFORE.search(text, before, start):
            start = unit.start()
    return start, end


class _Form(NamedTuple):
    pattern: str
    digits: int = 1
    hints: tuple[str, ...] = ()


_FORMS = (
    _Form(
        rf"{_NOUN_CUE}(?P<value>{_english(_ANY, f'{_STRONG}|{_WEAK}')}{_TAIL}|{_french(_ANY, _RUE_OR_PLACE)}{_TAIL}"
        rf"|{_ANY}(?: {_ANY}){{0,3}},? {_NUMBER}{_TAIL})",
        hints=("address", "adresse", "anschrift", "direcci", "endere", "indirizzo", "domicilio", "wohnhaft"),
    ),
    _Form(
        rf"{_VERB_CUE}(?P<value>{_english(_NAME, f'{_STRONG}|{_WEAK}')}{_TAIL}|{_french(_NAME, _RUE_OR_PLACE)}{_TAIL})",
        hints=(" at ", " to ", " by ", " in ", "home is"),
    ),
    _Form(f"{_english(_NAME, _STRONG)}{_NO_NOUN}{_TAIL}"),
    _Form(f"{_english(_NAME, _USUAL)}{_TAIL}"),
    _Form(f"{_english(_NAME, _WEAK)}{_UNIT}(?=,){_place(_NAME)}", digits=5),
    _Form(f"{_english(_ANY, _STRONG, most=2)}{_UNIT}(?=,){_place(_ANY, least=1)}", digits=5),
    _Form(f"{_french(_NAME, _RUE)}{_TAIL}"),
    _Form(f"{_french(_NAME, _RUE_OR_PLACE)}(?=,){_place(_NAME)}", digits=5),
    _Form(
        f"{_JOINED}{_TAIL}",
        hints=(
            "stra\u00dfe", "strasse", "str.", "gasse", "allee", "straat", "laan", "gracht", "kade", "gatan",
            "v\u00e4gen",
        ),
    ),
    _Form(
        f"{_PREFIXED}{_TAIL}",
        hints=(
            "calle", "c/ ", "carrer", "avenida", "avda", "rua ", "travessa", "pra\u00e7a", "rambla", "viale", "strada",
            "ul.", "ulica", "\u0443\u043b",
        ),
    ),
    _Form(_BEFORE_POSTCODE, digits=5, hints=(",",)),
    _Form(_BOX, hints=("box", "postfach", "apartado", "casilla")),
    _Form(_EAST_ASIAN, hints=("\u3012", "\u533a", "\u5e02", "\u753a", "\u6751", "\u53f7", "\u865f")),
)  # fmt: skip

ADDRESS_DETECTORS = tuple(
    Detector(ADDRESS, re.compile(form.pattern), _address, form.digits, form.hints) for form in _FORMS
)

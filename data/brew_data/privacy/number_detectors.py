"""Detectors of numbers that identify a person: accounts, cards, national ids, network addresses, dates of birth.

A checksum decides where the number has one (IBAN, cards) and no word before it says what it is. National ids and dates
of birth are found only after such a word, because their digits alone could be anything.
"""

import ipaddress
import re

from brew_data.privacy.detector import (
    BANK_ACCOUNT,
    BIRTH_DATE,
    CARD,
    NATIONAL_ID,
    NETWORK,
    Detector,
    Span,
    digit_count,
    follows_id_word,
    is_date_or_years,
)

__all__ = ["NUMBER_DETECTORS"]

# Bank accounts (ISO 13616)

_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
_IBAN = re.compile(r"\d(?<=[A-Za-z]{2}\d)(?<!\w[A-Za-z]{2}\d)\d(?=[ -]?[A-Za-z0-9])", re.ASCII)  # its check digits
_CUED_IBAN = re.compile(
    r"\biban\b(?: (?:no|nr|number)\b\.?)?[:# ]{0,3}(?:is )?"
    r"(?P<value>[A-Z]{2}\d\d(?:[ -]?[A-Z]{4})?(?:[ -]?(?=[A-Z]{0,3}\d)[A-Z0-9]{1,4}){3,8})(?!\w)",
    re.IGNORECASE | re.ASCII,
)


def _iban(match: re.Match[str]) -> Span | None:
    """Accept an account number of its country's length and with the right check digits (ISO 7064, mod 97-10)."""
    text, start = match.string, match.start() - 2
    length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length is None:
        return None
    end = _end_of(text, start, length)
    if end is None or (end < len(text) and text[end].isalnum()):
        return None
    account = re.sub("[ -]", "", text[start:end])
    number = "".join(str(int(character, 36)) for character in account[4:] + account[:4])
    return (start, end) if int(number) % 97 == 1 else None


def _end_of(text: str, start: int, count: int) -> int | None:
    """Return the end of `count` letters or digits from `start`, between which one space or dash may stand."""
    position, separator = start, False
    while position < len(text):
        character = text[position]
        if character.isascii() and character.isalnum():
            count, separator = count - 1, False
        elif character in " -" and not separator:
            separator = True
        else:
            return None
        position += 1
        if not count:
            return position
    return None


# Payment cards (ISO/IEC 7812)

_CARD = re.compile(r"[2-6](?<![\w.,+-].)(?:[ -]?\d){13,15}", re.ASCII)
_CUED_CARD = re.compile(
    r"\b(?:card|visa|mastercard|amex|maestro|kreditkarte|carte bancaire|tarjeta|carta di credito)\b"
    r"(?: (?:no|nr|num|number)\b\.?)?[:# ]{0,3}(?:is )?"
    r"(?P<value>(?:\d{4}[ -]?){3}\d{1,7}|3\d{3}[ -]?\d{6}[ -]?\d{4,5})(?!\w|[.,-]\d)",
    re.IGNORECASE | re.ASCII,
)
_CARD_START = re.compile(r"3[0346-9]|4|5[0-8]|2[2-7]|6")
_MORE = re.compile(r"\w|[.,-]\d")  # another digit follows


def _cued_card(match: re.Match[str]) -> Span | None:
    return None if is_date_or_years(match["value"]) else match.span("value")


def _card(match: re.Match[str]) -> Span | None:
    """Accept a card number of its issuer's length and with the right check digit (Luhn)."""
    text, start = match.string, match.start()
    digits = re.sub("[ -]", "", match[0])
    if not _CARD_START.match(digits) or follows_id_word(text, start):
        return None
    length = 15 if digits[:2] in ("34", "37") else 14 if digits[0] == "3" else 16
    end = _end_of(text, start, length)
    if end is None or _MORE.match(text, end):
        return None
    number = re.sub("[ -]", "", text[start:end])
    if not number.isdecimal():  # letters follow
        return None
    values = [int(digit) for digit in number]
    doubled = [2 * value - 9 * (value > 4) for value in values[-2::-2]]
    return (start, end) if (sum(values[-1::-2]) + sum(doubled)) % 10 == 0 else None


# National ids

_ID_CUE = (
    r"(?:social security|national insurance|sozialversicherungs(?:nummer|nr)|steuer-?(?:id|nummer)|personalausweis"
    r"(?:nummer|nr)?|reisepass(?:nummer)?|passport|passeport|pasaporte|passaporto|driv(?:er'?s?|ing) licen[cs]e"
    r"|f\u00fchrerschein(?:nummer)?|national id(?:entity)?(?: card)?|id card|identity card|tax (?:id|file)|aadhaa?r"
    r"|codice fiscale|s[\u00e9e]curit[\u00e9e] sociale|burgerservicenummer|personnummer|cpr-?nummer|henkil\u00f6tunnus"
    r"|(?-i:SSN|NINO|NI|TFN|TIN|ITIN|NIF|NIE|DNI|CPF|RG|CURP|RUT|CUIL|PAN|BSN|PESEL|CPR|AHV|AVS|NRIC|HKID|EGN|JMBG|OIB))"
)
_ID_HINTS = (
    "social", "insurance", "sozial", "steuer", "ausweis", "pass", "licen", "schein", "national", "id card", "identity",
    "tax ", "aadha", "codice", "curit", "burger", "personn", "cpr", "henkil", "ssn", "nin", "ni ", "tfn", "tin", "nif",
    "nie", "dni", "cpf", "rg ", "curp", "rut", "cuil", "pan ", "bsn", "pesel", "ahv", "avs", "nric", "hkid", "egn",
    "jmbg", "oib",
)  # fmt: skip
_ID_PART = r"(?=[A-Z./-]{0,6}\d)[A-Z0-9](?:[A-Z0-9./-]{0,19}[A-Z0-9])?"
_NATIONAL_ID = re.compile(
    rf"\b{_ID_CUE}\b(?:[ ]?(?:card|no|nr|number|num|nummer|id|code)\b\.?){{0,2}}[:#. ]{{0,3}}(?:is[ ])?"
    rf"(?P<value>(?:[A-Z]{{1,3}}[ ])?{_ID_PART}(?:[ ]{_ID_PART}){{0,5}}(?:[ ](?-i:[A-Z])\b)?)(?!\w)",
    re.IGNORECASE | re.ASCII,
)


def _national_id(match: re.Match[str]) -> Span | None:
    value = match["value"]
    return match.span("value") if digit_count(value) >= 5 and not is_date_or_years(value) else None


# Network addresses

_IP_4 = re.compile(
    r"(?P<address>\d(?<![\w.-].)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3})(?::\d{1,5}|/\d{1,2})?(?![\w-]|\.\d)", re.ASCII
)
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")  # in the middle of an address
_BEFORE_COLON, _AFTER_COLON = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{0,39}$"), re.compile(r"[0-9A-Fa-f:]{0,39}(?![\w:])")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
_VERSION_WORD = re.compile(
    r"\b(?:v|ver|version|release|build|firmware|update|section|chapter|chrome|android|windows|oid)\.? ?$", re.IGNORECASE
)
_HOST_WORD = re.compile(r"\b(?:ip|ipv4|address|host|server|ping|ssh|login|from)\b[^.;]{0,15}$", re.IGNORECASE)


def _ip_4(match: re.Match[str]) -> Span | None:
    """Accept an address that is not the number of a version: these are small, or follow a word."""
    try:
        address = ipaddress.IPv4Address(match["address"])
    except ValueError:
        return None
    before = max(0, match.start() - 25)
    if address.is_loopback or address.is_unspecified or _VERSION_WORD.search(match.string, before, match.start()):
        return None
    if sum(part > 9 for part in address.packed) < 2 and not _HOST_WORD.search(match.string, before, match.start()):
        return None
    return match.span()


def _with_colons(match: re.Match[str]) -> Span | None:
    """Accept an IPv6 address, or the six bytes of a network card (MAC)."""
    text = match.string
    first = _BEFORE_COLON.search(text, max(0, match.start() - 40), match.start())
    last = _AFTER_COLON.match(text, match.end())
    if first is None or last is None:
        return None
    found = text[first.start() : last.end()]
    if digit_count(found) == 0 or len(found) < 7:  # a word, as in C++
        return None
    if not _MAC.fullmatch(found):
        try:
            address = ipaddress.IPv6Address(found)
        except ValueError:  # a time
            return None
        if address.is_loopback or address.is_unspecified:
            return None
    return first.start(), last.end()


# Dates of birth

_MONTH = (
    r"(?:jan|feb|mar|m\u00e4r|apr|avr|abr|may|mai|mag|maj|jun|jui|giu|jul|lug|aug|ao\u00fb|ago|sep|set|oct|okt|ott|out"
    r"|nov|dec|dez|d\u00e9c|dic|ene|gen|f\u00e9v|fev)[^\W\d_]{0,9}\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th|\.|er|\u00ba)?"
_BIRTH_DATE = re.compile(
    rf"\b(?:born|d\.?o\.?b\b|date of birth|birth ?date|birthday|geboren|geb\.|geburtsdatum|geburtstag|n\u00e9e? le"
    rf"|date de naissance|nacid[oa]|fecha de nacimiento|nat[oa] il|data di nascita|data de nascimento|nascid[oa]"
    rf"|f\u00f6dd|f\u00f8dt|geboortedatum|urodzon[ya])\.?(?: (?:on|am|el|em|den|op|is)\b)?[: ]{{0,3}}"
    rf"(?P<value>\d{{1,2}}[./ -]\d{{1,2}}[./ -]\d{{2,4}}|\d{{4}}[./-]\d{{1,2}}[./-]\d{{1,2}}"
    rf"|{_DAY} (?:of |de )?{_MONTH}(?:(?:,? | de )\d{{4}})?|{_MONTH} {_DAY}(?:,? \d{{4}})?)(?!\d)",
    re.IGNORECASE,
)
_BIRTH_HINTS = (
    "born", "dob", "d.o.b", "birth", "geboren", "geb.", "geburt", "geboorte", "n\u00e9 le", "n\u00e9e le",
    "naissance", "nacid", "nacimiento", "nato il", "nata il", "nascita", "nascid", "nascimento", "f\u00f6dd",
    "f\u00f8dt", "urodzon",
)  # fmt: skip

NUMBER_DETECTORS = (
    Detector(BANK_ACCOUNT, _CUED_IBAN, digits=7, hints=("iban",)),
    Detector(BANK_ACCOUNT, _IBAN, _iban, digits=7),
    Detector(
        CARD, _CUED_CARD, _cued_card, digits=13, hints=("card", "visa", "amex", "maestro", "kart", "cart", "tarjeta")
    ),
    Detector(CARD, _CARD, _card, digits=14),
    Detector(NATIONAL_ID, _NATIONAL_ID, _national_id, digits=5, hints=_ID_HINTS),
    Detector(NETWORK, _COLONS, _with_colons, digits=1),
    Detector(NETWORK, _IP_4, _ip_4, digits=4),
    Detector(BIRTH_DATE, _BIRTH_DATE, digits=1, hints=_BIRTH_HINTS),
)

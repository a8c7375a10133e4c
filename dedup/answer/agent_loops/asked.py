"""Repetition that the user asks an agent for: "run it 20 times", "watch it until it fails"."""

import re
from functools import lru_cache
from typing import Final

PATIENT_COPIES: Final = 10
_MAX_COPIES: Final = 1000
_MAX_NAMED: Final = 100  # characters of a value that a prompt names
_MAX_CHARS: Final = 20_000  # of a prompt, searched at either end

_TIMES: Final = re.compile(
    r"(\d{1,4})\s*(?:times|x(?!\s*\d)|runs|rounds|repetitions|iterations|attempts"
    r"|mal|fois|veces|vezes|volte|раз)\b"
    r"|(\d{1,4})\s*(?:次|遍|回|轮)|(?<!\d)(\d)度"
)
_NUMBER_WORDS: Final = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|a few|several|a couple of)"
    r" (?:\w+ )?(?:times|runs|rounds|notches|steps)\b"
    r"|(?:zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|ein paar ?)mal\b"
    r"|\b(?:deux|trois|quatre|cinq|six|sept|huit|dix|quelques) fois\b"
    r"|\b(?:dos|tres|cuatro|cinco|seis|siete|ocho|diez|varias) veces\b|[两三四五六七八九十几](?:次|遍|回|轮)",
    re.IGNORECASE,
)
_AGAIN: Final = re.compile(
    r"\b(?:sag(?:e|en)? (?:mir |uns )?Bescheid|check back|(?:until|till)(?! \d)|repeatedly"
    r"|again and again|over and over|keep (?:\w+ing|an eye)"
    r"|poll (?:it|until|every|them)|(?:monitor|watch) (?:it|them|this|that|for|until|closely)|wait for|flaky|intermittent"
    r"|every (?:\d+ |few )?(?:second|minute|hour)s?|(?:alle|jede|toutes les|chaque|cada|ogni) (?:\w+ )?"
    r"(?:Sekunden?|Minuten?|Stunden?|secondes?|minutes?|heures?|segundos?|minutos?|horas?|secondi|minuti))\b"
    r"|直到|反复|不断|每隔|每[\d一二两三四五六七八九十半几]*(?:秒|分钟|小时)|持续|轮询|盯|看着|等到|等待|[るたい]まで|毎分|ごとに",
    re.IGNORECASE,
)


_WATCHED: Final = re.compile(
    r"\b(?:watch|monitor|track|observe|as soon as|once it|whenever|keep an eye"
    r"|(?:tell|alert|notify|ping|warn) me (?:when|if|as|once)|let me know (?:when|if|once)"
    r"|sobald|überwach\w*|beobacht\w*|jusqu'à|dès que|surveille\w*|hasta que|en cuanto|avísame|vigila"
    r"|assim que|monitore|как только|следи)\b"
    r"|监控|监视|监测|留意|关注|一旦|提醒我|通知我|監視|たら教えて",
    re.IGNORECASE,
)
_NEGATED: Final = re.compile(
    r"(?:\b(?:not|never|without|avoid|stop|instead of)\b|n['’]t\b|不要|不准|别|勿|禁止|避免)"
    r"[^.!?。！？;；\n]{0,60}\Z",
    re.IGNORECASE,
)
_BEFORE: Final = 80  # characters in which a negation is looked for


def copies_asked(prompt: str) -> int:
    """Return how many copies of a step the user's message asks for, or allows; 0 if it does not."""
    return _copies_asked(_ends(prompt))


def is_watching(prompt: str) -> bool:
    """Return whether the user's message asks for values to be watched: then each change matters."""
    return copies_asked(prompt) > 0 or _is_watching(_ends(prompt))


def is_named(value: object, prompt: str) -> bool:
    """Return whether the user's message has a value in it, as a word of its own."""
    word = str(value).strip()
    if not word or len(word) > _MAX_NAMED:
        return False
    text = _ends(prompt)
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (_is_letter(text[at - 1 : at]) or _is_letter(text[end : end + 1])):
            return True
        at = text.find(word, end)
    return False


def _is_letter(text: str) -> bool:
    """Return whether a text of a character or none is part of a word."""
    return text.isalnum() or text == "_"


@lru_cache(64)
def _copies_asked(prompt: str) -> int:
    copies = 0
    for found in _AGAIN.finditer(prompt):
        if not _is_negated(prompt, found.start()):
            copies = PATIENT_COPIES
    for found in _NUMBER_WORDS.finditer(prompt):
        if not _is_negated(prompt, found.start()):
            copies = PATIENT_COPIES
    for found in _TIMES.finditer(prompt):
        if not _is_negated(prompt, found.start()):
            copies = max(copies, int(found.group(found.lastindex or 1)))
    return min(copies, _MAX_COPIES)


@lru_cache(64)
def _is_watching(prompt: str) -> bool:
    return _WATCHED.search(prompt) is not None


def _ends(prompt: str) -> str:
    if len(prompt) > 2 * _MAX_CHARS:
        return f"{prompt[:_MAX_CHARS]}\n{prompt[-_MAX_CHARS:]}"
    return prompt


def _is_negated(prompt: str, at: int) -> bool:
    return _NEGATED.search(prompt[max(0, at - _BEFORE) : at]) is not None

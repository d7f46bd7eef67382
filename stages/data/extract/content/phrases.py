"""Phrases of headings and short blocks around the main text, by topic, in the languages of many pages."""

from __future__ import annotations

import re

# Alternatives of regular expressions, searched for in lower-cased text.
_TOPICS = {
    "related": (
        r"related|recommend|you (?:may|might) (?:also )?(?:like|enjoy)|also (?:read|see)|"
        r"read (?:more|also|next)|see also|more (?:from|on|stories|news|in|articles|posts)|trending|popular|"
        r"most (?:read|viewed)|latest|recent|don.t miss|up next|similar|editor.?s pick|top stories|previous|"
        r"next (?:article|post|story)|featured|lesen sie|auch interess|mehr zum|weitere|passend|verwandt|"
        r"meistgelesen|empfehlung|zum thema|ähnliche|à lire|lire aussi|sur le même|voir aussi|"
        r"articles? (?:liés|similaires|récents)|relacionad|le puede|te puede|lea (?:también|más)|leer más|"
        r"más (?:leíd|noticias)|também|leia|veja|mais lidas|leggi anche|articoli correlati|potrebbe interess|"
        r"lees ook|meer over|gerelateerd|czytaj|zobacz|podobne|puedes ver|^mire\b|^lea\b|^vea\b|^ver más|"
        r"entérate|auch lesen|^siehe auch|vous aimerez|dowiedz się|^read\b.{0,40}:|^watch\b|^related|читайте|"
        r"похожие|по теме|ещё по|关连|相关|推荐|猜你|関連|おすすめ|最新記事|관련|추천"
    ),
    "comments": (
        r"comments?\b|leave a (?:reply|comment)|join the (?:discussion|conversation)|responses?\b|discussion|"
        r"reply\b|repl(?:y|ies) to|kommentar|commentaire|comentario|comentário|commenti|reacties|komentarz|"
        r"комментари|评论|コメント|댓글|post a comment|add a comment|your email address will not|\d+ thoughts? on|"
        r"trackback|pingback"
    ),
    "sharing": (
        r"\bshare\b|share (?:this|on|via)|tweet|facebook|twitter|whatsapp|pinterest|linkedin|reddit|"
        r"e-mail this|email this|print\b|teilen|drucken|partager|compartir|compartilh|condividi|udostępnij|поделиться|"
        r"分享|シェア|공유|copy link|follow us"
    ),
    "byline": (
        r"^(?:by|von|par|por|di|door)\b|written by|posted (?:by|on|in)|published|updated|"
        r"last (?:modified|updated)|min(?:ute)?s? read|filed under|tags?:|categor(?:y|ies):|author|"
        r"photo (?:by|credit)|image (?:credit|source)|about the author|über den autor|veröffentlicht|stand:|"
        r"publié|publicado|pubblicato|опубликовано|作者|投稿|기자|view all posts"
    ),
    "subscription": (
        r"subscri|newsletter|sign up|sign in|log ?in|register|create an account|"
        r"get (?:the|our|your) (?:latest|free|daily)|inbox|anmelden|abonn|suscr|inscri|iscri|aanmelden|donate|"
        r"support us|advertis|sponsor|anzeige|werbung|publicidad"
    ),
    "legal": (
        r"©|copyright|all rights|privacy|terms (?:of|and)|cookie|impressum|datenschutz|disclaimer|powered by|"
        r"licen[cs]e"
    ),
}
TOPICS = tuple(_TOPICS)


def _alternatives(pattern: str) -> list[str]:
    """Alternatives of a regular expression, those inside of groups not split."""
    found, depth = [""], 0
    for character in pattern:
        depth += (character == "(") - (character == ")")
        if character == "|" and not depth:
            found.append("")
        else:
            found[-1] += character
    return found


def _any_of(alternatives: list[str]) -> str:
    """One expression for all; those that begin with the same letter are behind it, which saves most comparisons."""
    by_letter: dict[str, list[str]] = {}
    others = []
    for alternative in alternatives:
        bare = alternative.removeprefix(r"\b")
        if bare[:1].isalpha() and bare[1:2] not in ("?", "*", "{"):
            by_letter.setdefault(bare[0], []).append(bare[1:])
        else:
            others.append(alternative)
    # Chinese, Japanese and Korean words have no boundary before them.
    inside = [f"{letter}(?:{'|'.join(rest)})" for letter, rest in sorted(by_letter.items()) if letter >= "\u1100"]
    at_start = [f"{letter}(?:{'|'.join(rest)})" for letter, rest in sorted(by_letter.items()) if letter < "\u1100"]
    return "|".join([rf"\b(?:{'|'.join(at_start)})", *inside, *others])


def _starts(alternative: str) -> list[str]:
    """Letters with which the texts of an alternative begin."""
    bare = alternative.removeprefix("^").removeprefix(r"\b").removeprefix(r"\d+ ")
    if bare.startswith("(?:"):
        return bare[3 : bare.index(")")].split("|")
    found = re.match(r"\w*", bare)
    return [found[0]] if found and found[0] else []


_SPLIT = {name: _alternatives(pattern) for name, pattern in _TOPICS.items()}
_ANY = re.compile(_any_of([alternative for alternatives in _SPLIT.values() for alternative in alternatives]))
# Of all phrases in ASCII, the first letters; most texts have none of them.
_STARTS = {
    option[:3]
    for alternatives in _SPLIT.values()
    for alternative in alternatives
    for option in _starts(alternative)
    if option.isascii()
}
_EACH = [re.compile(_any_of(alternatives)) for alternatives in _SPLIT.values()]


def topics(text: str, words: list[str]) -> tuple[int, ...]:
    """Numbers of the `TOPICS` that a text mentions at the beginning of a word; `words` are those of the text.

    Both are in lower case.
    """
    if text.isascii() and _STARTS.isdisjoint([word[:3] for word in words]):
        return ()
    if not _ANY.search(text):
        return ()
    return tuple(number for number, pattern in enumerate(_EACH) if pattern.search(text))

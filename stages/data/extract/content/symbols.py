"""LaTeX of the characters, accents and function names of MathML."""

from __future__ import annotations

import unicodedata

from longcat.stages.data.extract.content.tags import words


def _pairs(text: str) -> dict[str, str]:
    """Pairs of a character and the name of its command, separated by blanks."""
    return {pair[0]: "\\" + pair[1:] for pair in text.split()}


SYMBOLS = {
    # Greek
    **_pairs(
        "αalpha βbeta γgamma δdelta εvarepsilon ϵepsilon ζzeta ηeta θtheta ϑvartheta ιiota κkappa λlambda μmu νnu ξxi "
        "πpi ϖvarpi ρrho ϱvarrho σsigma ςvarsigma τtau υupsilon φvarphi ϕphi χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta "
        "ΛLambda ΞXi ΠPi ΣSigma ΥUpsilon ΦPhi ΨPsi ΩOmega µmu"
    ),
    # Large operators
    **_pairs("∑sum ∏prod ∐coprod ∫int ∬iint ∭iiint ∮oint ⋃bigcup ⋂bigcap ⋁bigvee ⋀bigwedge ⨁bigoplus ⨂bigotimes"),
    # Operations and relations
    **_pairs(
        "±pm ∓mp ×times ÷div ⋅cdot ·cdot ∗ast ⋆star ∘circ ∙bullet ∪cup ∩cap ∨vee ∧wedge ⊕oplus ⊖ominus ⊗otimes ⊙odot "
        "∖setminus †dagger ‡ddagger ≤le ≥ge ⩽leqslant ⩾geqslant ≪ll ≫gg ≠ne ≡equiv ≈approx ≅cong ≃simeq ∼sim ∝propto "
        "≺prec ≻succ ⪯preceq ⪰succeq ⊂subset ⊃supset ⊆subseteq ⊇supseteq ⊊subsetneq ⊏sqsubset ⊑sqsubseteq ∈in ∋ni "
        "∉notin ⊥perp ∥parallel ∦nparallel ∣mid ∤nmid ⊢vdash ⊨models ⊣dashv ≜triangleq ≐doteq ≲lesssim ≳gtrsim ⋈bowtie"
    ),
    # Arrows
    **_pairs(
        "→to ←leftarrow ↔leftrightarrow ⇒Rightarrow ⇐Leftarrow ⇔Leftrightarrow ↦mapsto ↑uparrow ↓downarrow "
        "↪hookrightarrow ↩hookleftarrow ⟶longrightarrow ⟵longleftarrow ⟹Longrightarrow ⟺Longleftrightarrow "
        "⟼longmapsto ⇌rightleftharpoons ⇀rightharpoonup ↗nearrow ↘searrow "
        "↛nrightarrow ⇑Uparrow ⇓Downarrow ↠twoheadrightarrow ⇝rightsquigarrow"
    ),
    # Letters, logic, fences, dots
    **_pairs(
        "∞infty ∂partial ∇nabla ∀forall ∃exists ∄nexists ∅emptyset ¬neg ⊤top ∠angle △triangle □square "
        "◻square ∎blacksquare ℏhbar ℓell ℜRe ℑIm ℘wp ℵaleph ℶbeth ⟨langle ⟩rangle ⌈lceil ⌉rceil "
        "⌊lfloor ⌋rfloor ‖| ∥parallel …ldots ⋯cdots "
        "⋮vdots ⋱ddots √surd ∴therefore ∵because ♯sharp ♭flat"
    ),
    # What LaTeX reads as its own signs
    **_pairs(r"\backslash {{ }} %% ## $$ && __"),
    "′": "'", "″": "''", "‴": "'''", "−": "-", "∕": "/", "∶": ":", "≔": ":=", "°": r"^\circ",
    # Invisible: application, times, separator, plus; joiners and blanks
    "\u2061": "", "\u2062": "", "\u2063": "", "\u2064": "", "\u200b": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
    "\u00a0": r"\ ", "\u2003": r"\quad ", "\u2002": r"\ ", "\u2009": r"\,", "\u200a": "",
    "\u205f": r"\:", "\u2005": r"\:",
}  # fmt: skip
LARGE_OPERATORS = frozenset(SYMBOLS[sign] for sign in "∑∏∐∫∬∭∮⋃⋂⋁⋀⨁⨂") | {
    r"\lim",
    r"\max",
    r"\min",
    r"\sup",
    r"\inf",
    r"\limsup",
    r"\liminf",
    r"\arg\max",
    r"\det",
    r"\gcd",
    r"\Pr",
}
FUNCTIONS = words(
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max "
    "min Pr sec sin sinh sup tan tanh"
)
# By the sign above: for one character, for several.
ACCENTS = {
    "^": (r"\hat", r"\widehat"), "ˆ": (r"\hat", r"\widehat"), "̂": (r"\hat", r"\widehat"),
    "~": (r"\tilde", r"\widetilde"), "˜": (r"\tilde", r"\widetilde"), "∼": (r"\tilde", r"\widetilde"),
    "¯": (r"\bar", r"\overline"), "‾": (r"\bar", r"\overline"), "_": (r"\bar", r"\overline"),
    "―": (r"\bar", r"\overline"), "ˉ": (r"\bar", r"\overline"), "-": (r"\bar", r"\overline"),
    "→": (r"\vec", r"\overrightarrow"), "⃗": (r"\vec", r"\overrightarrow"), "⇀": (r"\vec", r"\overrightarrow"),
    "←": (r"\overleftarrow",) * 2, "↔": (r"\overleftrightarrow",) * 2,
    ".": (r"\dot",) * 2, "˙": (r"\dot",) * 2, "¨": (r"\ddot",) * 2, "..": (r"\ddot",) * 2, "⃛": (r"\dddot",) * 2,
    "ˇ": (r"\check",) * 2, "˘": (r"\breve",) * 2, "´": (r"\acute",) * 2, "`": (r"\grave",) * 2,
    "˚": (r"\mathring",) * 2,
    "⏞": (r"\overbrace",) * 2, "︷": (r"\overbrace",) * 2,
}  # fmt: skip
ACCENTS_BELOW = {"⏟": r"\underbrace", "︸": r"\underbrace", **dict.fromkeys("_¯‾―ˉ̲-", r"\underline")}
LONG_ARROWS = {r"\to": r"\xrightarrow", r"\longrightarrow": r"\xrightarrow", r"\leftarrow": r"\xleftarrow"}
VARIANTS = {
    "bold": r"\mathbf", "bold-italic": r"\boldsymbol", "double-struck": r"\mathbb", "script": r"\mathcal",
    "bold-script": r"\mathcal", "fraktur": r"\mathfrak", "sans-serif": r"\mathsf", "monospace": r"\mathtt",
    "normal": r"\mathrm",
}  # fmt: skip
# Words in the Unicode names of mathematical letters, the first that is found counts.
_LETTER_STYLES = {
    "DOUBLE-STRUCK": "double-struck", "FRAKTUR": "fraktur", "BLACK-LETTER": "fraktur", "SCRIPT": "script",
    "MONOSPACE": "monospace", "SANS-SERIF": "sans-serif", "BOLD ITALIC": "bold-italic", "BOLD": "bold",
}  # fmt: skip


def symbol(character: str) -> str:
    """LaTeX of one character."""
    known = SYMBOLS.get(character)
    if known is not None:
        return known
    if "\u2102" <= character <= "\u2138" or "\U0001d400" <= character <= "\U0001d7ff":
        plain = unicodedata.normalize("NFKC", character)
        name = unicodedata.name(character, "")
        style = next((style for words, style in _LETTER_STYLES.items() if words in name), None)
        plain = SYMBOLS.get(plain, plain)
        return f"{VARIANTS[style]}{{{plain}}}" if style else plain
    return character

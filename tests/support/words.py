"""Words and phrases that the project does not use, and what it says instead.

Plain English and the field's standard terms. Patterns are matched in pages, docstrings, comments
and messages, without regard to case.
"""

from __future__ import annotations

NOT_USED = {
    r"\banew\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bheld against\b": "compared with",
    r"\bwhose (mathematics|defaults)\b": "which library's formulas, defaults",
    r"\byou get; an argument\b": "to use",
    r"\bin vain\b": "needlessly, or: where it is not needed",
    r"\b(runs|trainings|networks) part\b": "diverge",
    r"\ba training parts\b": "diverges",
    r"\bin earnest\b": "in practice",
    r"\bfor all that\b": "as far as",
    r"\bnumbers of (a|the|each|an) (tensor|array|parameter)\b": "elements",
    r"\bof so many numbers\b": "elements",
    r"\bwithout a word\b": "silently",
    r"\bin no time\b": "at once",
    r"\bso to speak\b": "",
    r"\bwherein\b|\bthereof\b|\bhereby\b|\bherein\b|\bwhereby\b": "a sentence of its own",
    r"\bthe former\b": "the noun",
    r"\brespectively\b": "two sentences",
    r"\butili[sz]e": "use",
    r"\bleverag(e|es|ing)\b": "use",
    r"\bfacilitat(e|es|ing)\b": "let",
    r"\bin order to\b": "to",
    r"\bdue to the fact\b": "because",
    r"\bprior to\b": "before",
    r"\bsubsequent(ly)? to\b": "after",
    r"\bat this point in time\b": "now",
    r"\bsimply\b": "",
    r"\bobviously\b": "",
    r"\bof course\b": "",
    r"\bvery\b": "",
    r"\bblazing": "a measured number",
    r"\bseamless": "what it does",
    r"\bcutting[- ]edge\b": "what it does",
    r"\bstate[- ]of[- ]the[- ]art\b": "what it does",
    r"\bworld[- ]class\b": "what it does",
    r"\bpowerful\b": "what it does",
    r"\brobust\b(?! (loss|statistic))": "what it withstands",
    r"\bout of the box\b": "without settings",
    r"\bunder the hood\b": "inside",
    r"\bbest[- ]in[- ]class\b": "what it does",
    r"\bgame[- ]chang": "what it does",
    r"\bto the contrary\b": "",
}
"""Patterns, and what to say instead (nothing: leave the word out)."""

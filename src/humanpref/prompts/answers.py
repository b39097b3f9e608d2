"""What a language model is asked for, and whether its answer can be believed."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from humanpref.prompts.records import Cleaned

INSTRUCTION = """\
You clean prompts for text-to-image models. Rewrite the prompt you are given as one plain sentence that says only what \
is in the picture.
Leave out: lists of artists; words that only ask for quality (highly detailed, intricate, sharp focus, 8k, masterpiece); \
names of renderers, websites and cameras (octane render, unreal engine, trending on artstation, 35mm); lighting and \
composition jargon (volumetric lighting, rule of thirds); styles and media that contradict each other.
Keep: subjects, attributes, actions, places, colours, and a medium, style or single artist where it is what the picture \
is about ("a watercolor of a fox", "a portrait by Rembrandt").
Use the prompt's own words. Add nothing, explain nothing, judge nothing. Answer with the sentence alone. If nothing is \
left, answer EMPTY."""

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am|we['’]?re)\s(?:very\s|so\s)?(?:sorry|unable|afraid|not able)|sorry\b|i (?:can(?:no|['’])?t|won['’]t|will not|cannot)\b|"
    r"as an (?:ai|language model|assistant)|unfortunately, i|i apologi[sz]e|my apologies|this (?:prompt|request) (?:violates|contains))",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:(?:cleaned|rewritten|clean)?\s?(?:prompt|sentence|answer|version)|output|result)\s?:\s*", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+")
_PLAIN = frozenset(
    "a an the of in on at by with to from for and or as is are was be being it its this that his her their there who "
    "which while into over under near up out style image picture scene featuring depicting depicted showing shows "
    "shown set against has have having where one two some".split()
)


def judge(prompt: str, answer: str, finish: str = "stop") -> Cleaned:  # noqa: PLR0911 - one for each reason
    """Make a result of a model's answer; what cannot be believed is kept for review, with the prompt as it was."""
    text = _LABEL.sub("", answer.strip()).strip()
    if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("'", "'")}:
        text = text[1:-1].strip()
    if finish in {"content_filter", "refusal"} or (_REFUSAL.match(text) and not _REFUSAL.match(prompt)):
        return _review(prompt, "the model refused", answer)
    if not text:
        return _review(prompt, "the model answered nothing", answer)
    if text.strip(". ").upper() == "EMPTY":
        return Cleaned(prompt, "", (" ".join(prompt.split()),), "empty", "nothing but style words")
    if finish == "length":
        return _review(prompt, "the answer was cut off", answer)
    if "\n" in text:
        return _review(prompt, "the answer has several lines", answer)
    if len(text) > 1.3 * len(prompt) + 40:
        return _review(prompt, "the answer is longer than the prompt", answer)
    told, asked = content_words(text), content_words(prompt)
    if asked and not told:
        return _review(prompt, "the answer has no content", answer)
    known = {_stem(word) for word in asked}
    invented = sorted(word for word in told if _stem(word) not in known and not _spelt_alike(word, asked))
    if len(invented) > max(1, 0.25 * len(told)):
        return _review(prompt, f"the answer is about something else ({', '.join(invented[:4])})", answer)
    if len(_essence(prompt) & {_stem(word) for word in told}) < 0.4 * len(_essence(prompt)):
        return _review(prompt, "the answer leaves out most of the content", answer)
    if " ".join(text.split()) == " ".join(prompt.split()):
        return Cleaned(prompt, prompt, (), "unchanged")
    return Cleaned(prompt, text, removed_terms(prompt, text), "clean")


def content_words(text: str) -> set[str]:
    """The words of a text that carry content, in lower case."""
    return {word for word in _WORD.findall(text.lower()) if word not in _PLAIN}


def removed_terms(prompt: str, text: str) -> tuple[str, ...]:
    """The terms of a prompt (between commas) none of whose content words are in the rewritten text."""
    left = {_stem(word) for word in content_words(text)}
    terms = (" ".join(term.split()) for term in re.split(r"[,;|\n]|\.\s", prompt))
    return tuple(term for term in terms
                 if (words := content_words(term)) and not any(_stem(word) in left for word in words))  # fmt: skip


def _essence(prompt: str) -> set[str]:
    """The stems of what the rules take for content: the part of a prompt that an answer must not lose."""
    from humanpref.prompts.rules import mark
    from humanpref.prompts.segments import Marked

    marked = Marked(prompt)
    mark(marked)
    return {_stem(word) for word in content_words(marked.result())}


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "ly", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _spelt_alike(word: str, asked: set[str]) -> bool:
    """Tell whether a word corrects one of the prompt's."""
    return any(abs(len(word) - len(other)) <= 2 and word[:2] == other[:2] and len(word) > 3
               and SequenceMatcher(None, word, other).ratio() >= 0.75 for other in asked)  # fmt: skip


def _review(prompt: str, reason: str, answer: str) -> Cleaned:
    said = " ".join(answer.split())
    return Cleaned(prompt, prompt, (), "review", f"{reason}: {said[:120]!r}" if said else reason)

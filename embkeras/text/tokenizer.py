"""A tokenizer as data: rewrite rules and a split at white space, or none.

Because it is data, it can be saved with a vocabulary and run wherever the model is served. The rules keep to the subset
in which Python's `re` (in ASCII mode) and RE2, TensorFlow's engine, agree: no look-around, no back-references, and `\\w`,
`\\d`, `\\b` with their ASCII meaning. See https://github.com/google/re2/wiki/Syntax.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from embkeras._checks import flag, shown
from embkeras.errors import VocabularyError

WHITE_SPACE = " \t\n\r\f\v"
UNICODE = "unicode"
_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # ASCII alone, as `tf.strings.lower` does
_SPLIT = re.compile(f"[{WHITE_SPACE}]+")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]")
# Anywhere in a pattern: classes and escapes on which the engines differ (\s contains \v in Python only; [:alpha:] is a
# class in RE2 only).
_ESCAPE_OUTSIDE = re.compile(r"(?<!\\)(?:\\\\)*(\\[sSZuUN])|\[:\^?[a-z]+:\]")
# Outside brackets: groups other than (?:...), possessive quantifiers, {,n}, more than the 1,000 repetitions that RE2
# allows, back-references, and "$", which in Python also matches before a final newline.
_SYNTAX_OUTSIDE = re.compile(r"\(\?(?!:)|[*+?}]\+|\{,|\{(?:[0-9]+,)?(?!1000[,}])[1-9][0-9]{3,}|\\[1-9]|(?<!\\)\$")
_REWRITE_OUTSIDE = re.compile(r"\\(?:0|[0-9]{2}|[^0-9\\]|$)")


@dataclass(frozen=True)
class Tokenizer:
    """Rewrite rules applied in order, then a split at ASCII white space.

    Args:
        rules: pairs (pattern, rewrite), applied to the text with one space before and one after it; `\\1` in a rewrite
            is the first group, as in RE2.
        lowercase: True lowers the ASCII letters first, as `TextVectorization` does; "unicode" those of every alphabet, as
            the Tokenizer of older Keras does.
        split: False takes a text as one token, as `StringLookup` does with "New York", and has no rules.

    Raises:
        VocabularyError: rules that are not pairs of strings, another `lowercase` or `split`, rules without a split, a
            pattern that does not compile, or one outside what `re` and RE2 have in common.

    Examples:
        >>> Tokenizer(rules=[("([!?.,])", r" \\1 ")])("Well, yes!")
        ['well', ',', 'yes', '!']
    """

    rules: tuple[tuple[str, str], ...] = ()
    lowercase: bool | str = True
    split: bool = True
    frame: ClassVar[tuple[int, int]] = (0, 0)  # special tokens before a text and after it

    def __post_init__(self) -> None:
        if not isinstance(self.rules, list | tuple) or not all(map(_is_pair_of_strings, self.rules)):
            raise VocabularyError(f"rules must be pairs of strings (pattern, rewrite). Received: {shown(self.rules)}.")
        object.__setattr__(self, "rules", tuple(map(tuple, self.rules)))
        if not (isinstance(self.lowercase, str) and self.lowercase == UNICODE):
            object.__setattr__(self, "lowercase", flag(self.lowercase, "lowercase", error=VocabularyError))
        object.__setattr__(self, "split", flag(self.split, "split", error=VocabularyError))
        if self.rules and not self.split:
            raise VocabularyError(f"A tokenizer with split=False has no rules. Received: {shown(self.rules)}.")
        _ = self._compiled  # refuse an invalid rule now, not at the first text

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], str]]:
        return [_compile(pattern, rewrite) for pattern, rewrite in self.rules]

    def __call__(self, text: str) -> list[str]:
        """The tokens of `text`, in order.

        Args:
            text: the text.

        Returns:
            The tokens, none of them empty.

        Raises:
            VocabularyError: not a string, or one with half a surrogate pair.
        """
        if not isinstance(text, str):
            raise VocabularyError(f"A text must be a str. Received: {shown(text)} of type {type(text).__name__}.")
        check_unicode(text)
        if self.lowercase:
            text = text.lower() if self.lowercase == UNICODE else text.translate(_TO_LOWER)
        if not self.split:
            return [text] if text else []
        text = f" {text} "  # so that a rule sees white space at both ends, without ^ and $
        for pattern, rewrite in self._compiled:
            text = pattern.sub(rewrite, text)
        return [token for token in _SPLIT.split(text) if token]

    def to_dict(self) -> dict[str, Any]:
        """The tokenizer as plain data for JSON."""
        data: dict[str, Any] = {"rules": [list(rule) for rule in self.rules], "lowercase": self.lowercase}
        return data if self.split else data | {"split": False}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer that `to_dict` described.

        Args:
            data: what `to_dict` returned.

        Returns:
            A tokenizer equal to that one.

        Raises:
            VocabularyError: other data.
        """
        if not isinstance(data, Mapping) or not {"rules", "lowercase"} <= set(data):
            raise VocabularyError(f"A tokenizer is described by rules and lowercase. Received: {shown(data)}.")
        return cls(rules=data["rules"], lowercase=data["lowercase"], split=data.get("split", True))


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse any other function that splits texts: it could not be saved with the vocabulary, nor exported."""
    if not isinstance(tokenizer, Tokenizer):
        raise VocabularyError(
            f"tokenizer must be a Tokenizer, whose rules are data; Tokenizer() splits at white space. "
            f"Received: {shown(tokenizer)}."
        )


def check_unicode(text: str) -> None:
    """Refuse half a surrogate pair, which no encoding has and RE2 can't read."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise VocabularyError(
            f"A text must be valid Unicode. Received: {text[error.start]!r} at character {error.start}."
        ) from None


def _is_pair_of_strings(rule: Any) -> bool:
    return isinstance(rule, list | tuple) and len(rule) == 2 and all(isinstance(part, str) for part in rule)


def _compile(pattern: str, rewrite: str) -> tuple[re.Pattern[str], str]:
    """One rule, ready for `sub`; refused where Python and RE2 would read it differently."""
    outside = _ESCAPE_OUTSIDE.search(pattern) or _SYNTAX_OUTSIDE.search(_CLASS.sub("[]", pattern))
    outside = outside or _REWRITE_OUTSIDE.search(rewrite)
    if outside:
        raise VocabularyError(
            f"Tokenizer rules must mean the same in Python's re and in RE2. "
            f"Received: {outside.group()!r} in the rule {pattern!r} -> {rewrite!r}."
        )
    try:
        compiled = re.compile(pattern, re.ASCII)
        compiled.sub(rewrite, "")
    except re.error as error:
        raise VocabularyError(f"The tokenizer rule {pattern!r} -> {rewrite!r} does not compile: {error}.") from None
    if any(match.end() == match.start() for match in compiled.finditer("a.")):
        raise VocabularyError(f"A tokenizer pattern must match at least one character. Received: {pattern!r}.")
    return compiled, rewrite


_ENTITIES = (
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", '"'),
    ("&(?:#0*39|#x0*27|apos);", "'"),
    ("&(?:#160|#xa0|nbsp);", " "),
    ("&hearts;", "<3"),
    ("&amp;", "&"),  # last: "&amp;lt;" is the text "&lt;"
)
_PUNCTUATION = (
    ("[\u2018\u2019]", "'"),
    ("[\u201c\u201d]", '"'),
    ("[\u2013\u2014]", " - "),
    ("\u2026", "..."),
    (r"(\.\.+|--+)", r" \1 "),
    # Opening marks, then closing ones, are split off a word as one run: "great:)" keeps its face.
    (r"""([ \t\n\r\f\v])(["'(\[*~]+)([A-Za-z0-9#@])""", r"\1\2 \3"),
    (r"""([A-Za-z0-9_])([]'".,:;!?()*~[]+)([ \t\n\r\f\v])""", r"\1 \2 \3"),
    # Marks inside: "yes!no" and "a,b" are split, 3.5 and 1,000 and u.s are not.
    (r"""([A-Za-z0-9])([];!?()"~[]+|[,:]+)([A-Za-z#@])""", r"\1 \2 \3"),
    # Contractions as the Penn Treebank and GloVe split them: do n't, it 's, we 're.
    (r"([A-Za-z])([Nn]'[Tt])\b", r"\1 \2"),
    (r"([A-Za-z])('(?:[SsMmDd]|[Rr][Ee]|[Vv][Ee]|[Ll][Ll]))\b", r"\1 \2"),
)
# A text is one token, as it is written: a name, or an id of a user.
WHOLE = Tokenizer(lowercase=False, split=False)
# Text as GloVe's own corpora were split: words, contractions, numbers, and runs of punctuation marks.
WORDS = Tokenizer(rules=_PUNCTUATION)
# Text as the Tokenizer of older Keras (`tf.keras.preprocessing.text`) splits it with its default settings.
OLD_KERAS = Tokenizer(rules=((r"""[!"#$%&()*+,./:;<=>?@[\]^_`{|}~-]""", " "),), lowercase=UNICODE)
# Tweets: HTML entities are decoded, URLs and @names become <url> and <user>, #tags and emoticons stay whole.
TWEETS = Tokenizer(
    rules=(
        *_ENTITIES,
        (r"(?:https?://|www\.)[^ \t\n\r\f\v]+", " <url> "),
        (r"\b[a-z0-9-]+\.(?:com|org|net|ly|me|co|uk|tv|gl|be)/[^ \t\n\r\f\v]+", " <url> "),
        (r"@[A-Za-z0-9_]+", " <user> "),
        *_PUNCTUATION,
    )
)

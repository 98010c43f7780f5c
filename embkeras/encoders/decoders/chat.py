"""The chat template of a decoder: messages as the one text that it was trained to continue."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from embkeras._checks import flag, sequence, shown
from embkeras.errors import ArgumentError, EncoderError, MissingDependencyError

# A template that only writes ChatML, perhaps with a message of the system in front of texts without one.
_CHATML = re.compile(
    r"\{% for message in messages %\}"
    r"(?:\{% if loop\.first and messages\[0\]\['role'\] != 'system' %\}\{\{ ?'(?P<system>[^']*)' ?\}\}\{% endif %\})?"
    r"\{\{ ?'<\|im_start\|>' \+ message\['role'\] \+ '\n' \+ message\['content'\] \+ '<\|im_end\|>' \+ '\n' ?\}\}"
    r"\{% endfor %\}"
    r"\{% if add_generation_prompt %\}\{\{ ?'<\|im_start\|>assistant\n' ?\}\}\{% endif %\}"
)
_PROMPT = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Chat:
    """Writes messages as the decoder's chat template says.

    Templates that write ChatML need nothing else; others need jinja2, which runs them without access to anything but the
    messages.

    Args:
        template: the template, as the decoder's file has it; None if there is none.
        names: the special tokens that templates name: "bos_token", "eos_token".
        where: the file, for errors.
        others: names of the templates for other uses, of a file that has several and no default; for errors.
    """

    template: str | None
    names: Mapping[str, str]
    where: str
    others: tuple[str, ...] = ()

    def __call__(self, messages: Iterable[Mapping[str, str]], *, prompt: bool = True) -> str:
        """The messages as one text.

        Args:
            messages: dictionaries of "role" ("system", "user" or "assistant") and "content".
            prompt: end with the beginning of an answer, which the decoder continues.

        Raises:
            ArgumentError: something else than messages.
            EncoderError: there is no template, or it refuses these messages.
            MissingDependencyError: the template needs jinja2, which is not installed.
        """
        prompt = flag(prompt, "prompt")
        checked = [_checked(message) for message in sequence(messages, "messages")]
        if self.template is None:
            if self.others:
                raise EncoderError(
                    f"{self.where!r} has several chat templates and none is named 'default': name one so, in its "
                    f"tokenizer_config.json. Received: {', '.join(self.others)}."
                )
            raise EncoderError(
                f"{self.where!r} has no chat template: give the decoder a prompt that is written out, as its authors say."
            )
        simple = _CHATML.fullmatch(self.template.removesuffix("\n").replace("\\n", "\n"))
        return self._rendered(checked, prompt) if simple is None else _chatml(checked, prompt, simple["system"])

    def _rendered(self, messages: list[dict[str, str]], prompt: bool) -> str:
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise MissingDependencyError(
                f"The chat template of {self.where!r} needs jinja2: python -m pip install jinja2."
            ) from None

        def refuse(reason: str) -> None:
            raise TemplateError(reason)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        try:
            template = environment.from_string(self.template or "")
            given = {**self.names, "tools": None, "documents": None}  # as in transformers
            return template.render(messages=messages, add_generation_prompt=prompt, **given)
        except Exception as error:  # a template raises what its expressions raise
            raise EncoderError(f"The chat template of {self.where!r} refuses these messages: {error}.") from None


def _checked(message: Any) -> dict[str, str]:
    fits = isinstance(message, Mapping) and set(message) == {"role", "content"}
    if not fits or not all(isinstance(value, str) for value in message.values()):
        raise ArgumentError(
            f'A message must be {{"role": ..., "content": ...}}, both strings. Received: {shown(message)}.'
        )
    return dict(message)


def _chatml(messages: list[dict[str, str]], prompt: bool, system: str | None) -> str:
    first = messages[0]["role"] if messages else "system"
    text = "" if system is None or first == "system" else system
    for message in messages:
        text += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    return text + (_PROMPT if prompt else "")

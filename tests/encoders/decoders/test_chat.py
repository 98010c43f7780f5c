"""Messages become the text that a decoder's template writes."""

import sys

import pytest

from embkeras.encoders.decoders.chat import Chat
from embkeras.errors import ArgumentError, EncoderError, MissingDependencyError
from tests.encoders.decoders.tiny_llama import TEMPLATE

ASKED = [{"role": "user", "content": "Hi"}]
ANSWERED = [{"role": "system", "content": "Be kind."}, *ASKED, {"role": "assistant", "content": "Hello."}]
OTHER = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"


@pytest.mark.parametrize("escaped", [False, True])
def test_chatml_needs_no_jinja(escaped, monkeypatch):
    """A template that writes ChatML is followed without jinja2, its message of the system too."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    chat = Chat(TEMPLATE.replace("\n", "\\n") if escaped else TEMPLATE, {}, "file")
    begin = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert chat(ASKED) == begin + "<|im_start|>assistant\n"
    assert chat(ASKED, prompt=False) == begin
    assert chat(ANSWERED, prompt=False) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    )


@pytest.mark.parametrize("messages", [ASKED, ANSWERED])
def test_chatml_is_what_jinja_writes(messages):
    """The short way returns what the template itself returns."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    around = Chat(TEMPLATE + "{# another template #}", {}, "file")
    assert around(messages) == Chat(TEMPLATE, {}, "file")(messages)


def test_other_templates_need_jinja(monkeypatch):
    """Any other template is run by jinja2, with the special tokens; without it, that is the error."""
    chat = Chat(OTHER, {"bos_token": "<s>"}, "file")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(MissingDependencyError, match="'file' needs jinja2"):
            chat(ASKED)
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    assert chat([{"role": "user", "content": " Hi "}]) == "<s>[user] Hi\n"
    with pytest.raises(EncoderError, match="refuses these messages: no system"):
        Chat("{{ raise_exception('no system') }}", {}, "file")(ASKED)


def test_tools_and_documents_are_none():
    """As transformers passes them to templates: what isn't passed is undefined in Jinja, which is not none."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    template = "{% if tools is not none or documents is not none %}<tools>{% endif %}{{ messages[0].content }}"
    assert Chat(template, {}, "file")(ASKED) == "Hi"


def test_wrong_messages_and_no_template_are_refused():
    """Messages are dictionaries of two strings."""
    with pytest.raises(EncoderError, match="'file' has no chat template"):
        Chat(None, {}, "file")(ASKED)
    for wrong in ("Hi", [{"role": "user"}], [{"role": "user", "content": 3}], ["Hi"], None):
        with pytest.raises(ArgumentError, match="Received"):
            Chat(TEMPLATE, {}, "file")(wrong)

"""Why something failed, from errors of Keras, TensorFlow and servers, which put what they saw in front of it."""

import re

_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?=\s*(\[\[|\[Op:|\{\{|\\n|\n|$))")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PLACES = re.compile(r'Graph execution error:|Detected at node .*|File ".*", line \d+.*|<stack traces unavailable>')
_RAISED = re.compile(r"[A-Za-z_.]*(?:Error|Exception): (.*)")
_LAYER = re.compile(r"Exception encountered when calling (.*?)(?:\.call)?\(\)\.")
_NODES = re.compile(r"^\{\{function_node .*?\}\} |,? \[Op:.*$|\s*\[\[\{\{node .*$")


def reason(message: str) -> str:
    """The reason in the message of an error, on one line.

    Examples:
        >>> reason("Graph execution error:\\n\\nDetected at node Assert\\nassertion failed: [Received] [7] [in text] [2]")
        'Received 7 in text 2.'
    """
    if refused := refusal(message):
        return refused
    lines = [line.strip() for line in _COLOUR.sub("", message).splitlines() if line.strip()]
    if lines[:1] == ["in user code:"]:  # the lines of code in between can be any
        raised = next((place for place, line in enumerate(lines) if _RAISED.fullmatch(line)), 0)
        lines[: raised + 1] = [_RAISED.sub(r"\1", lines[raised])]
    while len(lines) > 1 and _PLACES.fullmatch(lines[0]):
        del lines[0]
    layer = _LAYER.fullmatch(lines[0]) if len(lines) > 1 else None
    if layer:
        return f"{layer[1]}: {_NODES.sub('', lines[1])}"
    return _NODES.sub("", lines[0]) if lines else ""


def refusal(message: str) -> str | None:
    """The sentence with which the graph of an export refuses a request; None for any other message.

    An assertion's message is a list of parts, "[Received] [7]": XLA can't put them together.
    """
    found = _ASSERTION.search(message)
    return None if found is None else found[1].replace("] [", " ").rstrip(".") + "."


def root_cause(error: BaseException) -> BaseException:
    """The error that others were raised from; Keras, TensorFlow and requests wrap what they catch."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error

"""What the flags of `embkeras predict` say: which column has which input, and from which probability a label counts."""

from embkeras.errors import ArgumentError


def columns_of(given: list[str] | None, inputs: list[str]) -> str | dict[str, str] | None:
    """The column with the text, or those of several inputs by input."""
    if len(inputs) == 1:
        if given is not None and len(given) > 1:
            raise ArgumentError(f"The model takes one text: give one --text COLUMN. Received: {', '.join(given)}.")
        return None if given is None else given[0]
    columns = {name: name for name in inputs}
    for each in given or []:
        name, found, column = each.partition("=")
        if not found or name not in columns:
            raise ArgumentError(
                f"The model takes the inputs {', '.join(inputs)}: give --text INPUT=COLUMN for each that has another column. "
                f"Received: {each!r}."
            )
        columns[name] = column
    return columns


def threshold_of(given: list[str] | None) -> float | dict[str, float] | None:
    """The threshold of all labels, or thresholds by label."""
    by_label = {}
    for each in given or []:
        label, found, value = each.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            raise ArgumentError(f"--threshold takes NUMBER or LABEL=NUMBER. Received: {each!r}.") from None
        if found:
            by_label[label] = number
        elif len(given or []) == 1:
            return number
        else:
            raise ArgumentError(f"--threshold takes one NUMBER, or LABEL=NUMBER for each label. Received: {each!r}.")
    return by_label or None

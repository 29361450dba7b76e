"""Parts of Markdown texts about a run: the model card, and the note on the dashboard."""

import shlex
from collections.abc import Mapping, Sequence

from sweep.tasks.kinds import TaskKind

HEADINGS = {"mean_class_accuracy": "mean class accuracy", "nll": "NLL (nats)", "bce": "BCE (nats)"}


def command_line(arguments: Sequence[str]) -> str:
    """Return the command that started a run, from its recorded `sys.argv`."""
    return shlex.join(["sweep", *arguments[1:]])


def markdown_text(value: object) -> str:
    """Escape a user's text for Markdown."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in text)


def settings_text(values: Mapping[str, object]) -> str:
    """Return settings as `name = value`, separated by commas."""
    return ", ".join(f"{markdown_text(name)} = {markdown_text(number_text(value))}" for name, value in values.items())


def number_text(value: object) -> str:
    """Return a value as text, a float with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metric_head(kind: TaskKind) -> list[str]:
    """Return the first two lines of a Markdown table of metrics."""
    headings = (HEADINGS.get(metric, kind.metrics[metric]) for metric in kind.shown)
    return [f"| | {' | '.join(headings)} |", f"|---{'|---' * len(kind.shown)}|"]


def metric_row(kind: TaskKind, name: str, metrics: Mapping[str, float], n_images: int) -> str:
    """Return a line of a Markdown table of metrics, with the standard error of the score over images."""
    cells = [kind.with_error(metrics, n_images), *(f"{metrics[metric]:.3f}" for metric in kind.shown[1:])]
    return f"| {name} | {' | '.join(cells)} |"

"""The model card: what a stranger needs to know before using an exported model."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from backbones.origin import origin_of
from backbones.protocol import Transform
from backbones.sizes import shown_size
from backbones.text_transform import BEYOND, TextInput
from sweep.export.config import BACKBONE_FILE, ONNX_FILE, TOKENIZER_FILE, TORCH_EXPORT_FILE, ModelConfig
from sweep.export.graph import TOLERANCE, input_name, output_name
from sweep.export.selection import Chosen
from sweep.records.results import Results
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION, TaskKind

HEADINGS = {"mean_class_accuracy": "mean class accuracy", "nll": "NLL (nats)", "bce": "BCE (nats)"}
GRAPHS = {
    TORCH_EXPORT_FILE: "`torch.export.load(path).module()` is the model without sweep",
    ONNX_FILE: "for ONNX Runtime",
}
ANSWERS = {
    CLASSES: "model.class_names[logits.argmax()]",
    MULTI_LABEL: "[name for name, p in zip(model.class_names, logits[0].sigmoid()) if p >= 0.5]",
    REGRESSION: "dict(zip(model.class_names, values[0].tolist()))",
}
"""What a user does with what the model gives of one image, by kind of task."""


def command_line(arguments: Sequence[str]) -> str:
    """The command of a run as it was typed, from its recorded `sys.argv`."""
    return shlex.join(["sweep", *arguments[1:]])


def model_card(
    config: ModelConfig,
    results: Results,
    chosen: Sequence[Chosen],
    *,
    with_backbone: bool,
    differences: Mapping[str, float],
) -> str:
    """The card as Markdown.

    Args:
        config: What the model is.
        results: The run it comes from.
        chosen: Its members, best first.
        with_backbone: Whether the backbone's weights lie beside the card.
        differences: Largest difference of a logit from the model's, by graph file.
    """
    names = " + ".join(f"trial {c.weights.trial}" for c in chosen)
    sections = [
        f"# {markdown_text(config.training['study'])}: {names}",
        _what_it_is(config, with_backbone, differences),
        _data(config),
        f"## Backbone\n\n{markdown_text(config.backbone.name)}, frozen. {origin_of(config.backbone.name)}\n"
        f"SHA-256 over its weights: `{config.backbone.fingerprint}`. Its licence goes with it, wherever it goes.",
        _metrics(config, results, chosen),
        _how_chosen(results, chosen, _kind(config)),
        _hyperparameters(config, chosen),
        _made_with(config),
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(config: ModelConfig, with_backbone: bool, differences: Mapping[str, float]) -> str:
    side, n_members, kind = config.side_network, len(config.members), config.target.kind
    given = output_name(kind)
    networks = "A LAST side-network" if n_members == 1 else f"{n_members} LAST side-networks behind one forward pass"
    ranks = ", ".join(str(member.rank) for member in config.members)
    of_texts = _kind(config) == "texts"
    item = '"a text"' if of_texts else 'Image.open("photo.jpg")'
    lines = [
        f"{networks} (low-rank attention side-tuning, arXiv 2402.04009; rank {ranks}, {side.n_modules} modules) "
        f"of a frozen {markdown_text(config.backbone.name)} at {shown_size(asdict(config.transform))}: "
        f"{_kind(config)} to {len(config.class_names)} {kind.outputs}.",
        "",
        "```python",
        "import sweep",
        *([] if of_texts else ["from PIL import Image"]),
        "",
        'model = sweep.load_model(".")  # this folder',
        f"{given} = model(model.transform({item}).unsqueeze(0))",
        ANSWERS[kind],
        "```",
        "",
        _input(config.transform),
    ]
    if kind is REGRESSION:
        lines += ["", "Values are in the units of the targets: the model undoes the standardisation it learned under."]
    if n_members > 1:
        together = {
            CLASSES: "The logits are log-probabilities: the logarithm of the mean of the members' probabilities.",
            MULTI_LABEL: "The logits are those of the mean of the members' probabilities.",
            REGRESSION: "The values are the means of the members'.",
        }
        lines += ["", together[kind]]
    lines += [
        "",
        f"The backbone's weights are inside (`{BACKBONE_FILE}`): the model loads without a network."
        if with_backbone
        else "The backbone's weights are not inside: loading fetches them by name and checks them.",
    ]
    for name, difference in differences.items():
        lines += [
            "",
            f"`{name}`: {GRAPHS[name]}, from {_graph_input(config.transform)} to `{given}` (N, C). On random "
            f"{_kind(config)} its {given} differ from the model's by at most {difference:.1e} (tolerance "
            f"{TOLERANCE:.0e}).",
        ]
    return "\n".join(lines)


def _kind(config: ModelConfig) -> Kind:
    return "texts" if isinstance(config.transform, TextInput) else "images"


def _graph_input(transform: Transform | TextInput) -> str:
    if isinstance(transform, TextInput):
        name = input_name("texts")
        return f"`{name}` (N, {transform.max_tokens}), numbers by `{TOKENIZER_FILE}` and {BEYOND} beyond a text's end,"
    return f"`{input_name('images')}` (N, 3, {transform.image_size}, {transform.image_size})"


def _input(transform: Transform | TextInput) -> str:
    """What `model.transform` does."""
    if isinstance(transform, TextInput):
        return (
            f"Input: the first {transform.max_tokens} tokens of a text, those that the tokenizer adds included "
            f"(SHA-256 `{transform.tokenizer_sha256}`); that is what `model.transform` makes of it."
        )
    size = f"{transform.image_size} x {transform.image_size}"
    resized = f"resized to {size} ({transform.interpolation}, no crop)"
    if transform.crop_pct is not None:
        resized = f"its shorter side resized to {transform.resized_side} ({transform.interpolation}), the centre {size}"
    return (
        f"Input: RGB, {resized}, "
        f"values in 0…1, minus {transform.mean}, divided by {transform.std}; that is what `model.transform` does."
    )


def _data(config: ModelConfig) -> str:
    training = config.training
    sizes = ", ".join(f"{split['images']} {name}" for name, split in training["splits"].items())
    names = ", ".join(map(markdown_text, config.class_names))
    notice = f"\n\n{markdown_text(training['data_notice'])}" if training["data_notice"] else ""
    seen = f" ({markdown_text(training['images'])})" if training["images"] else ""
    return (
        f"## Data\n\n{markdown_text(training['data'])}: {sizes} {_kind(config)}. Trained on train{seen}.{notice}\n\n"
        f"{len(config.class_names)} {config.target.kind.outputs}: {names}."
    )


def _metrics(config: ModelConfig, results: Results, chosen: Sequence[Chosen]) -> str:
    splits = config.training["splits"]
    n_val, n_test, kind = splits["val"]["images"], splits["test"]["images"], results.kind
    of_val, of_test = f"{n_val} val {_kind(config)}", f"{n_test} test {_kind(config)}"
    rows = metric_head(kind)
    for c in chosen:
        val = {name: c.row[f"val_{name}"] for name in kind.shown}
        test = _test_metrics(results, c)
        if test:  # of the winner, whose errors were bootstrapped where they do not follow
            val |= results.summary["winner"]["val"]
        rows.append(metric_row(kind, f"trial {c.weights.trial}, {of_val}", val, n_val))
        if test:
            rows.append(metric_row(kind, f"trial {c.weights.trial}, {of_test}", test, n_test))
    if results.summary:
        probe = results.summary["linear_probe"]
        rows.append(metric_row(kind, f"linear probe for comparison, {of_val}", probe["val"], n_val))
        rows.append(metric_row(kind, f"linear probe for comparison, {of_test}", probe["test"], n_test))
    notes = [f"± is the standard error over {_kind(config)}; another seed is not in it."]
    if len(chosen) > 1:
        notes.append("The ensemble as a whole was not evaluated; these are the numbers of its members.")
    return "\n".join(["## Metrics", "", *rows, "", *notes])


def _test_metrics(results: Results, chosen: Chosen) -> dict[str, float] | None:
    if not results.summary or results.summary["winner"]["trial"] != chosen.weights.trial:
        return None
    test: dict[str, float] = results.summary["winner"]["test"]
    return test


def metric_head(kind: TaskKind) -> list[str]:
    """The first two lines of a Markdown table of metrics."""
    headings = (HEADINGS.get(metric, kind.metrics[metric]) for metric in kind.shown)
    return [f"| | {' | '.join(headings)} |", f"|---{'|---' * len(kind.shown)}|"]


def metric_row(kind: TaskKind, name: str, metrics: Mapping[str, float], n_images: int) -> str:
    """A line of a Markdown table of metrics, with the standard error of the score over images."""
    cells = [kind.with_error(metrics, n_images), *(f"{metrics[metric]:.3f}" for metric in kind.shown[1:])]
    return f"| {name} | {' | '.join(cells)} |"


def _how_chosen(results: Results, chosen: Sequence[Chosen], kind: Kind) -> str:
    complete = int((results.trials["state"] == "COMPLETE").sum())
    best = int(results.trials.iloc[0]["trial"])
    order = ", then ".join(markdown_text(name) for name in results.objectives)
    tie = results.kind.tie_heading
    front = "Pareto front, then by " if len(results.objectives) > 1 else ""
    rank = f"the run ranks its trials by {front}{order} after the last epoch, ties by {tie}"
    if (
        len(chosen) > 1
        and front
        and set(results.trials.query("front == 0")["trial"]) == {c.weights.trial for c in chosen}
    ):
        text = f"The Pareto front of {complete} complete trials: {rank}."
    elif len(chosen) > 1:
        text = f"The {len(chosen)} best of {complete} complete trials: {rank}."
    elif chosen[0].weights.trial == best:
        text = f"The best of {complete} complete trials: {rank}."
    else:
        text = f"Asked for by number; of {complete} complete trials the run ranks trial {best} first: {rank}."
    text += " The val numbers were chosen among, so they flatter; the more trials, the more."
    if any(_test_metrics(results, c) for c in chosen):
        text += f" The test {kind} were looked at once, by the winner and by the linear probe, and chose nothing."
    else:
        text += f" The test {kind} were not looked at for this model."
    return f"## How it was chosen\n\n{text}"


def _hyperparameters(config: ModelConfig, chosen: Sequence[Chosen]) -> str:
    backbone = config.backbone
    shared = {
        "epochs": config.training["epochs"],
        "batch_size": config.training["batch_size"],
        **({"group_size": backbone.group_size} if backbone.stages is None else {"stages": backbone.stages}),
        "modules_per_block": config.side_network.modules_per_block,
        "pool": config.side_network.pool,
        "seed": config.training["seed"],
    }
    lines = ["## Hyperparameters", "", f"All: {_settings(shared)}.", ""]
    lines += [
        f"- trial {c.weights.trial}: {_settings(c.hyperparameters)}; {int(c.row['trainable_parameters']):,} trained "
        f"parameters, initialised with seed {int(c.row['seed'])}"
        for c in chosen
    ]
    return "\n".join(lines)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{markdown_text(name)} = {markdown_text(_number(value))}" for name, value in values.items())


def _number(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _made_with(config: ModelConfig) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in config.training["versions"].items())
    splits = json.dumps({name: split["fingerprint"] for name, split in config.training["splits"].items()}, indent=2)
    return (
        f"## Made with\n\n    {command_line(config.training['command'])}\n\n{versions}\n\n"
        f"SHA-256 over {_kind(config)} and labels:\n\n```json\n{splits}\n```"
    )


def markdown_text(value: object) -> str:
    """A user's text, harmless in Markdown."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in text)

"""The model card: what somebody needs to know before they use an exported model."""

import json
from collections.abc import Mapping, Sequence

from backbones.origin import origin_of
from backbones.protocol import Transform
from backbones.sizes import shown_size, transform_record
from backbones.text_transform import BEYOND, TextInput
from sweep.export.config import BACKBONE_FILE, ONNX_FILE, TOKENIZER_FILE, TORCH_EXPORT_FILE, ModelConfig
from sweep.export.graph import TOLERANCE, input_name, output_name
from sweep.export.markdown import command_line, markdown_text, metric_head, metric_row, settings_text
from sweep.export.selection import Chosen
from sweep.records.ranked_on import RankedOn
from sweep.records.results import Results
from sweep.records.tested import was_retrained, was_tested
from sweep.side_networks.families import family_of
from sweep.side_networks.gated import effective_ranks
from sweep.study.structure import GATED
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import CLASSES, DETECTION, MULTI_LABEL, REGRESSION, SEGMENTATION

OF_HEAD = ("head_stages", "head_cells")
"""Declarations of heads that answer for every token."""

GRAPHS = {
    TORCH_EXPORT_FILE: "`torch.export.load(path).module()` is the model without sweep",
    ONNX_FILE: "for ONNX Runtime",
}
ANSWERS = {
    CLASSES: "model.class_names[logits.argmax()]",
    MULTI_LABEL: "[name for name, p in zip(model.class_names, logits[0].sigmoid()) if p >= 0.5]",
    REGRESSION: "dict(zip(model.class_names, values[0].tolist()))",
    SEGMENTATION: "logits[0].argmax(0)  # the class of every pixel of the model's input, (H, W)",
    DETECTION: "[(model.class_names[c], box.tolist()) for c, box in zip(found.classes, found.corners)]",
}
"""How a user turns the model's output for one image into an answer, by kind of task."""


def model_card(
    config: ModelConfig,
    results: Results,
    chosen: Sequence[Chosen],
    *,
    with_backbone: bool,
    differences: Mapping[str, float],
) -> str:
    """Write the card as Markdown.

    Args:
        config: The model's configuration.
        results: The run that the model comes from.
        chosen: The trials in the model, best first.
        with_backbone: Whether the folder includes the backbone's weights.
        differences: For each graph file, the largest difference between its logits and the model's.
    """
    names = " + ".join(f"trial {c.weights.trial}" for c in chosen)
    sections = [
        f"# {markdown_text(config.training['study'])}: {names}",
        _what_it_is(config, with_backbone, differences),
        _data(config),
        f"## Backbone\n\n{markdown_text(config.backbone.name)}, frozen. {origin_of(config.backbone.name)}\n"
        f"SHA-256 over its weights: `{config.backbone.fingerprint}`. Its licence applies to every copy of it.",
        _metrics(config, results, chosen),
        _how_chosen(results, chosen, _kind(config)),
        _hyperparameters(config, chosen),
        _made_with(config),
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(config: ModelConfig, with_backbone: bool, differences: Mapping[str, float]) -> str:
    side, n_members, kind = config.side_network, len(config.members), config.target.kind
    given = output_name(kind)
    family = family_of(side.family)
    networks = "A side-network" if n_members == 1 else f"{n_members} side-networks that share one forward pass"
    structure = [f"family {side.described}"]
    if family.has_rank:
        structure.append(f"rank {', '.join(str(member.rank) for member in config.members)}")
    if side.has_rank_space:
        structure.append(f"{side.n_modules} modules")
    of_texts = _kind(config) == "texts"
    item = '"a text"' if of_texts else 'Image.open("photo.jpg")'
    own_code = f", study={json.dumps(config.training['study_file'])}" if side.is_own else ""
    lines = [
        f"{networks} ({family.described}; {', '.join(structure)}) "
        f"of a frozen {markdown_text(config.backbone.name)} at {shown_size(transform_record(config.transform))}: "
        f"{_kind(config)} to {len(config.class_names)} {kind.outputs}.",
        "",
        "```python",
        "import sweep",
        *([] if of_texts else ["from PIL import Image"]),
        "",
        f'model = sweep.load_model("."{own_code})  # this folder',
        'found = model.detect(Image.open("photo.jpg"))  # corners are left, top, right, bottom in its pixels'
        if kind is DETECTION
        else f"{given} = model(model.transform({item}).unsqueeze(0))",
        ANSWERS[kind],
        "```",
        "",
        _input(config.transform),
    ]
    if own_code:
        lines += [
            "",
            "The code of the side-network is not in this folder. It is in the study file, which must not be changed "
            "(SHA-256 below).",
        ]
    if kind is REGRESSION:
        lines += [
            "",
            "The values are in the units of the targets: the model undoes the scaling that was used in training.",
        ]
    if n_members > 1:
        together = {
            CLASSES: "The logits are log-probabilities: the logarithm of the mean of the members' probabilities.",
            MULTI_LABEL: "The logits are those of the mean of the members' probabilities.",
            REGRESSION: "The values are the means over the members.",
            SEGMENTATION: "The logits are log-probabilities: the logarithm of the mean of the members' probabilities.",
            DETECTION: "Scores are the means over the members, and so are the outputs from which boxes are computed.",
        }
        lines += ["", together[kind]]
    lines += [
        "",
        f"The folder includes the backbone's weights (`{BACKBONE_FILE}`), so the model loads without a network."
        if with_backbone
        else "The folder does not include the backbone's weights: loading the model fetches and checks them.",
    ]
    shape = {SEGMENTATION: "(N, C, H, W)", DETECTION: "(N, S, C + 4)"}.get(kind, "(N, C)")
    for name, difference in differences.items():
        lines += [
            "",
            f"`{name}`: {GRAPHS[name]}, from {_graph_input(config.transform)} to `{given}` {shape}. On random "
            f"{_kind(config)} its {given} differ from the model's by at most {difference:.1e} (tolerance "
            f"{TOLERANCE:.0e}).",
        ]
    return "\n".join(lines)


def _kind(config: ModelConfig) -> Kind:
    return "texts" if isinstance(config.transform, TextInput) else "images"


def _graph_input(transform: Transform | TextInput) -> str:
    if isinstance(transform, TextInput):
        name = input_name("texts")
        return (
            f"`{name}` (N, {transform.max_tokens}), token numbers by `{TOKENIZER_FILE}`, {BEYOND} after a text's end,"
        )
    return f"`{input_name('images')}` (N, 3, {transform.image_size}, {transform.image_size})"


def _input(transform: Transform | TextInput) -> str:
    """Describe what `model.transform` does."""
    if isinstance(transform, TextInput):
        return (
            f"Input: the first {transform.max_tokens} tokens of a text, including those that the tokenizer adds "
            f"(SHA-256 of the tokenizer `{transform.tokenizer_sha256}`). `model.transform` computes them."
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
    trained = "Trained again, after it was chosen, on" if training["retrained"] else "Trained on"
    trained += " the training and the validation data together" if training["retrained"] else " the training data"
    if training["folds"] and not training["retrained"]:
        trained = (
            f"Trained on the training and the validation data without the first of {training['folds']} folds: these "
            f"are the weights of a trial's first lane in cross-validation. The run's winner is trained again on all"
        )
    weighted = " Every class counted alike in the loss." if training["class_weights"] == "balanced" else ""
    return (
        f"## Data\n\n{markdown_text(training['data'])}: {sizes} {_kind(config)}. "
        f"{trained}{seen}.{weighted}{notice}\n\n"
        f"{len(config.class_names)} {config.target.kind.outputs}: {names}."
    )


def _metrics(config: ModelConfig, results: Results, chosen: Sequence[Chosen]) -> str:
    splits = config.training["splits"]
    ranked, n_test, kind = RankedOn.recorded(results.config), splits["test"]["images"], results.kind
    of_val, of_test, n_val = ranked.words, f"{n_test} test {_kind(config)}", ranked.n_images
    rows = metric_head(kind)
    for c in chosen:
        val = ranked.metrics_of(c.row, kind)
        test = _test_metrics(results, c)
        if test:  # the summary has the winner's standard errors, also bootstrapped ones
            val |= results.summary["winner"]["val"]
        in_search = " (in the search, trained on the training data)" if c.retrained and not ranked.folds else ""
        rows.append(metric_row(kind, f"trial {c.weights.trial}, {of_val}{in_search}", val, n_val))
        if test:
            rows.append(metric_row(kind, f"trial {c.weights.trial}, {of_test}", test, n_test))
    if results.summary:
        probe = results.summary["linear_probe"]
        rows.append(metric_row(kind, f"linear probe for comparison, {of_val}", probe["val"], n_val))
        if was_tested(results.summary):
            rows.append(metric_row(kind, f"linear probe for comparison, {of_test}", probe["test"], n_test))
    over = f"{_kind(config)}, on train and val over folds" if ranked.folds else _kind(config)
    notes = [f"± is the standard error over {over}. It does not cover the choice of the random seed."]
    if ranked.folds:
        notes.append(ranked.how)
    if len(chosen) > 1:
        notes.append("These are the numbers of the members. `sweep evaluate` measures the ensemble as a whole.")
    return "\n".join(["## Metrics", "", *rows, "", *notes])


def _test_metrics(results: Results, chosen: Chosen) -> dict[str, float] | None:
    """The metrics of these weights on the test set; None if the run did not measure them."""
    summary = results.summary
    if not was_tested(summary) or summary["winner"]["trial"] != chosen.weights.trial:
        return None
    test: dict[str, float] = summary["winner"]["test"]
    return test if chosen.retrained == was_retrained(summary) else None


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
        text = f"Chosen by its number. Of {complete} complete trials the run ranks trial {best} first: {rank}."
    text += " The val numbers were used for this choice, so they are too good; the more trials, the more so."
    if any(_test_metrics(results, c) for c in chosen):
        text += f" The test {kind} were used once, for the winner and the linear probe, and not for any choice."
    else:
        text += f" This model was not evaluated on the test {kind}."
    return f"## How it was chosen\n\n{text}"


def _hyperparameters(config: ModelConfig, chosen: Sequence[Chosen]) -> str:
    backbone = config.backbone
    shared = {
        "epochs": config.training["epochs"],
        "batch_size": config.training["batch_size"],
        **({"group_size": backbone.group_size} if backbone.stages is None else {"stages": backbone.stages}),
        **{option: getattr(config.side_network, option) for option in family_of(config.side_network.family).options},
        "read_out": config.side_network.read_out,
        **{name: getattr(config.side_network, name) for name in OF_HEAD if config.side_network.dense},
        "pool": config.side_network.pool,
        "seed": config.training["seed"],
    }
    lines = ["## Hyperparameters", "", f"All: {settings_text(shared)}.", ""]
    lines += [
        f"- trial {c.weights.trial}: {settings_text(c.hyperparameters)}; {int(c.row['trainable_parameters']):,} "
        f"trained parameters, initialised with seed {int(c.row['seed'])}{_ranks_left(config, c)}"
        for c in chosen
    ]
    return "\n".join(lines)


def _ranks_left(config: ModelConfig, chosen: Chosen) -> str:
    """How many ranks a trial with learned ranks has left, and how many parameters, as part of a sentence."""
    side, state = config.side_network, chosen.weights.state
    left = effective_ranks(state)
    if side.family != GATED or left is None:
        return ""
    n_modules, rank = side.n_modules, chosen.weights.rank
    return (
        f"; {round(left.item() * n_modules)} of {rank * n_modules} ranks are left, and "
        f"{sum(tensor.numel() for tensor in state.values()):,} parameters"
    )


def _made_with(config: ModelConfig) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in config.training["versions"].items())
    splits = json.dumps({name: split["fingerprint"] for name, split in config.training["splits"].items()}, indent=2)
    study_file, study_sha256 = (config.training[name] for name in ("study_file", "study_sha256"))
    of_study = f"SHA-256 of the study file {markdown_text(study_file)}: `{study_sha256}`\n\n" if study_sha256 else ""
    return (
        f"## Made with\n\n    {command_line(config.training['command'])}\n\n{versions}\n\n{of_study}"
        f"SHA-256 over {_kind(config)} and labels:\n\n```json\n{splits}\n```"
    )

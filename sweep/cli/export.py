"""`sweep export`: write a run's winner as a model that loads anywhere."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import recorded_options
from sweep.terminal.console import stderr, stdout


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[Path, typer.Option(help="The folder to create.")],
    trial: Annotated[
        int | None,
        typer.Option(
            help="Number of the trial to export, with the weights that it had in the search. If not given, the winner; "
            "with the weights of `--retrain`, if the run was given that.",
            min=0,
        ),
    ] = None,
    ensemble: Annotated[
        str | None,
        typer.Option(
            help="Export several trials that share one forward pass of the backbone: `top5` for the five best, "
            "`pareto` for the Pareto front."
        ),
    ] = None,
    with_backbone: Annotated[
        bool,
        typer.Option(
            "--with-backbone/--without-backbone",
            help="Include the backbone's weights in the folder, or let `load_model` fetch and check them.",
        ),
    ] = True,
    backbone: recorded_options.OwnBackbone = None,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Also write model.pt2, a `torch.export` program.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx (extra: export).")] = False,
    push: Annotated[
        str | None,
        typer.Option(
            help="Also upload the model to this repository on the Hugging Face hub, `me/coins`; made private where it "
            "is missing (extra: hub)."
        ),
    ] = None,
    study: recorded_options.OwnStudy = None,
) -> None:
    """Export the winner, or another trial: weights, configuration and model card.

    `sweep.load_model(DIR)` returns an ordinary PyTorch module that maps transformed images (or texts) to logits. `sweep
    predict DIR` labels images or texts from the command line.

        sweep export runs/lr_rank-… --to shipped

        sweep export runs/lr_rank-… --trial 7 --onnx --to shipped

        sweep export runs/lr_rank-… --to shipped --push me/coins
    """
    from sweep.export.graph import TOLERANCE
    from sweep.export.hub import card_metadata, push_model, require_hub
    from sweep.export.write import export_run
    from sweep.machine.paths import default_cache_dir
    from sweep.records.results import load_results
    from sweep.records.tested import AGAIN

    if push is not None:
        require_hub(push)
    if study is not None:
        from sweep.side_networks.given import take_own_code

        take_own_code(study)
    exported = export_run(
        run,
        to,
        trial=trial,
        ensemble=ensemble,
        with_backbone=with_backbone,
        torch_export=torch_export,
        onnx=onnx,
        backbone_file=backbone,
        cache_dir=default_cache_dir(),
    )
    for name, difference in exported.differences.items():
        stderr.print(
            f"{name}: its logits differ by at most {difference:.1e} (tolerance {TOLERANCE:.0e})", highlight=False
        )
    trials = ", ".join(map(str, exported.trials))
    again = f", {AGAIN}" if exported.retrained else ""
    stdout.print(f"trial {trials}{again}: {to}", highlight=False, soft_wrap=True, markup=False)
    given = "" if study is None else f" --study {study}"
    stdout.print(f"to use it: sweep predict {to} IMAGES_OR_TEXTS{given}", highlight=False, soft_wrap=True, markup=False)
    if push is not None:
        results = load_results(run)
        address = push_model(to, push, card_metadata(results, was_measured=exported.measured_on_test(results)))
        stdout.print(f"on the hub: {address}", highlight=False, soft_wrap=True, markup=False)

"""`sweep verify`: train a trial again, alone, and compare it with the record."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sweep.cli import recorded_options
from sweep.terminal.console import printable, stderr, stdout

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.verify.verify import Verification

BROKEN = 1


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    trial: Annotated[int, typer.Option(help="The number of the trial to train again.", min=0)],
    data: recorded_options.MovedData = None,
    backbone: recorded_options.OwnBackbone = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="The largest difference from the record to accept. Use it on another machine or on a GPU.", min=0.0
        ),
    ] = 0.0,
    study: recorded_options.OwnStudy = None,
    device: recorded_options.DeviceName = None,
) -> None:
    """Train one trial of a run again, alone, and compare it with what the run recorded.

    Curve, last metrics and weights (where the run kept them) must have the same bits on the machine and with the
    versions that the run had. Each of the first 50 steps, in fp64, must agree to 1e-10 with a plain PyTorch step from
    the same weights, or to a hundred times what rounding alone does to that step, where this is more. How far the two
    are apart after all 50 steps is shown too: training makes rounding grow. The exit code is 1 if a promise is broken.
    Nothing out of the run folder is executed.

        sweep verify runs/lr_rank-… --trial 7
    """
    from sweep.machine.device import device_named
    from sweep.machine.paths import default_cache_dir
    from sweep.verify.verify import verify_trial

    with stderr.status(f"training trial {trial} again") as status:
        verification = verify_trial(
            run,
            trial,
            device=device_named(device),
            cache_dir=default_cache_dir(),
            data=data,
            backbone_file=backbone,
            tolerance=tolerance,
            own_study=study,
            on_epoch=lambda epoch: status.update(f"training trial {trial} again, epoch {epoch}"),
        )
    show_verification(stdout, verification)
    if not verification.kept:
        raise typer.Exit(BROKEN)


def show_verification(console: Console, verification: "Verification") -> None:
    """Print what was compared, and whether it is as promised."""
    from sweep.machine.conditions import in_words

    trial = verification.trial
    epochs = f"{trial.epochs} epoch{'s' * (trial.epochs > 1)} from data order {trial.first_order}"
    table = Table(title=f"trial {trial.number} trained again, alone: {epochs}", title_justify="left")
    for heading in ("", "numbers", "largest difference", "promised"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for comparison in verification.comparisons:
        difference = f"{comparison.difference:.1e}" if comparison.difference else "0"
        promised = f"{comparison.promised:.0e}" if comparison.promised else "0"
        if math.isinf(comparison.promised):
            promised = "-"
        style = None if comparison.kept else "bold red"
        table.add_row(comparison.what, f"{comparison.count:,}", difference, promised, style=style)
    console.print(table, highlight=False)
    if verification.not_compared:
        names = printable(", ".join(verification.not_compared))
        console.print(f"not compared, because they need the study's code: {names}", highlight=False, markup=False)
    if verification.kept:
        console.print("the trial trained alone equals the record", highlight=False)
        return
    console.print("[bold red]the trial trained alone differs from the record[/]", highlight=False)
    if verification.changed:
        console.print(
            f"the run had {printable(in_words(verification.changed))}. Equal bits are promised only where "
            "nothing has changed; otherwise give --tolerance",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

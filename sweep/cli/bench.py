"""`sweep bench`: what a configuration costs on this machine."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sweep.cli.console import stderr, stdout
from sweep.errors import UsageError


class Suite(StrEnum):
    """What is measured."""

    quick = "quick"
    paper = "paper"
    scaling = "scaling"


SUITES: dict[Suite, dict[str, Any]] = {
    Suite.quick: {},
    Suite.paper: {"backbone": "untrained:vit_base_patch16_224", "image_size": 224},
    Suite.scaling: {"n_parallel": 1024},
}


def bench(
    suite: Annotated[
        Suite,
        typer.Option(help="quick: ViT-S/14 at 112 px. paper: ViT-B/16 at 224 px. scaling: against N, K, r, L, D."),
    ] = Suite.quick,
    backbone: Annotated[str | None, typer.Option(help="As for `sweep run`; `untrained:NAME` costs the same.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the backbone's input, in pixels.", min=1)] = None,
    n_parallel: Annotated[int | None, typer.Option(help="N, lanes of a stack; 32.", min=2)] = None,
    rank: Annotated[int | None, typer.Option(help="r; 8.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over 800 images, of one configuration; 20.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="`cpu` or `cuda`; the CPU.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of `sweep`'s row: `fp32`, or `bf16` on a GPU.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="With `--suite scaling`: write a plot against N, HTML.")] = None,
) -> None:
    """Time every way of training the same configurations, in one process, in turns.

    Training steps are measured and scaled to a configuration of 800 images; evaluation and search are left out of every
    row. Keep the machine quiet meanwhile.

        sweep bench --suite quick --json bench.json

        sweep bench --suite paper --backbone untrained:vit_large_patch16_224
    """
    from sweep.bench.measure import run_benchmark
    from sweep.bench.report import (
        benchmark_json,
        scaling_json,
        show_benchmark,
        show_scaling,
        write_json,
        write_plot,
    )
    from sweep.bench.scaling import run_scaling
    from sweep.bench.workload import Sizes, Workload
    from sweep.preparation import check_precision
    from sweep.runner import device_named

    if plot is not None and suite is not Suite.scaling:
        raise UsageError("--plot draws the scaling suite; add --suite scaling, or leave it out")
    if suite is Suite.scaling and (backbone or image_size):
        raise UsageError(
            "--suite scaling trains on random features of many shapes; leave --backbone and --image-size out"
        )
    asked = {"backbone": backbone, "image_size": image_size, "n_parallel": n_parallel, "rank": rank, "epochs": epochs}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if backbone is not None and image_size is None:
        given["image_size"] = None  # the backbone's own
    where = device_named(device or "cpu")
    check_precision(precision or "fp32", where)
    sizes = Sizes(**{**SUITES[suite], **given, "device": str(where), "precision": precision or "fp32"})

    def say(line: str) -> None:
        stderr.print(line, highlight=False, markup=False)

    if suite is Suite.scaling:
        points = run_scaling(sizes, say)
        show_scaling(stdout, points)
        content = scaling_json(points, sizes)
        if plot is not None:
            write_plot(plot, points)
    else:
        benchmark = run_benchmark(Workload.of_backbone(sizes), say)
        show_benchmark(stdout, benchmark, sizes)
        content = benchmark_json(benchmark, sizes)
    if json_file is not None:
        write_json(json_file, content)

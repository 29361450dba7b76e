"""`sweep bench`: measure what a configuration costs on this machine, and what it is worth."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.cli import data_options
from sweep.cli.bench_parts import IN_PARTS, NOT_FOR, OPTIONS_OF_ONE, TAKEN_BY
from sweep.cli.bench_studies import SHIPPED_STUDIES
from sweep.errors import UsageError
from sweep.terminal.console import stderr, stdout

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.bench.workload import Sizes


class Suite(StrEnum):
    """What to measure."""

    quick = "quick"
    paper = "paper"
    scaling = "scaling"
    search = "search"
    accuracy = "accuracy"
    proposals = "proposals"
    shapes = "shapes"
    busy = "busy"
    gpu = "gpu"
    lora = "lora"
    workers = "workers"


class SideNetwork(StrEnum):
    """What the suites `quick` and `paper` train."""

    last = "last"
    ladder = "ladder"


SUITES: dict[Suite, dict[str, Any]] = {
    Suite.quick: {},
    Suite.paper: {"backbone": "untrained:vit_base_patch16_224", "image_size": 224},
    Suite.scaling: {"n_parallel": 1024},
    Suite.search: {},
    Suite.accuracy: {},
    Suite.proposals: {},
    Suite.shapes: {},
    Suite.busy: {},
    Suite.gpu: {},
    Suite.lora: {},
    Suite.workers: {},
}


def bench(
    suite: Annotated[
        Suite,
        typer.Option(
            help="`quick`: time of a training step, ViT-S/14 at 112 px. `paper`: the same, ViT-B/16 at 224 px. "
            "`scaling`: how it grows with lanes, modules, rank, tokens and width. `search`: accuracy against time. "
            "`accuracy`: side-networks, probe and LoRA, each tuned, on several tasks or on your data. `proposals`: a "
            "search that learns from its trials against random search. `shapes`: stacks of many shapes against "
            "padding. `busy`: what another program that takes a core costs. `gpu`: whether a GPU trains the same "
            "weights, and how fast. `lora`: LoRA beside a finished run of segmentation or detection. `workers`: what "
            "the run's own process does in an epoch of many lanes, on simulated workers."
        ),
    ] = Suite.quick,
    backbone: Annotated[
        str | None, typer.Option(help="As for `sweep run`. Random weights (`untrained:NAME`) cost the same.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the backbone's input, in pixels.", min=1)] = None,
    side_network: Annotated[
        SideNetwork | None,
        typer.Option(help="With the suites `quick` and `paper`: what trains; `last` if not given."),
    ] = None,
    n_parallel: Annotated[
        int | None,
        typer.Option(
            help="Lanes in a stack (N); if not given, 32, or 16 with `--suite search`. With the suites `scaling` and "
            "`workers`: the most lanes; 1024 and 16384.",
            min=2,
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the side-networks (r); 8, or 16 of a ladder, if not given.", min=1)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of one configuration: 20 if not given; 6 for `search`; 12 for `proposals`, `shapes` and "
            "`accuracy`, there 30 for families other than LAST. For `workers` and `busy`: epochs that are measured; 6 "
            "and 5.",
            min=1,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="`cpu` or `cuda`. If not given, `cpu`; `cuda` with `--suite gpu`.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Arithmetic of the row `sweep`: `fp32`, or `bf16` on a GPU.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="With `--suite search`: how long each search runs; `75s` if not given.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="How many seeds: 5 for `search` and `shapes`, 3 for `accuracy`, 10 for `proposals`.", min=1),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            autocompletion=data_options.complete_data,
            help="With `--suite accuracy`: the data, as for `sweep run`; each item must have one class. `mini-vtab` if "
            "not given.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With `--suite accuracy`: what is compared, such as `last,ladder,lora`; the linear probe is measured "
            "with `last`. All that fit the data and the backbone if not given."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="With `--suite accuracy`: how many configurations are tried of each method but the probe. If not "
            "given, 16 of LAST and its variants, 32 of each other family, and 6 of LoRA (3 on texts), which has no "
            "more.",
            min=1,
        ),
    ] = None,
    accept_licence: Annotated[
        str | None, typer.Option(help="With `--suite accuracy`: the licence that you accept, as for `sweep run`.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="With `--suite lora`: folder of a finished run of segmentation or detection.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all measurements to this JSON file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="With the suites `scaling` and `search`: write a plot to this HTML file.")
    ] = None,
) -> None:
    """Measure speed or accuracy on this machine: several ways of training, searches, or tuned methods.

    The suites `quick`, `paper` and `scaling` time steps of several ways of training, in turns and in one process, and
    scale them to a configuration of 800 images. They leave out evaluation and the search itself. `--suite search` runs
    whole searches and compares what they find in the same time. `--suite accuracy` compares what tuned methods reach on
    test images; if it is interrupted, the same command with the same `--json` file continues it. Run nothing else on
    the machine meanwhile.

        sweep bench --suite quick --json bench.json

        sweep bench --suite paper --backbone untrained:vit_large_patch16_224

        sweep bench --suite quick --side-network ladder

        sweep bench --suite search --plot search.html

        sweep bench --suite accuracy --data ./photos --backbone clip_base_patch16 --image-size 112 --json accuracy.json

        sweep bench --suite lora --run runs/segmentation-… --json lora.json

        sweep bench --suite workers --n-parallel 4096
    """
    from sweep.bench import report
    from sweep.bench.workload import LADDER_SIZES, Sizes
    from sweep.machine.device import device_named
    from sweep.running.preparation import check_precision

    of_one = {"data": data, "methods": methods, "trials": trials, "accept_licence": accept_licence, "run": run}
    _require_fitting(suite, plot=plot, time=time, seeds=seeds, network=backbone or image_size, of_one=of_one)
    if side_network is not None and suite not in (Suite.quick, Suite.paper):
        raise UsageError("--side-network belongs to the suites quick and paper; leave it out")
    where = device_named(device or "cpu")
    check_precision(precision or "fp32", where)

    def say(line: str) -> None:
        stderr.print(line, highlight=False, markup=False)

    asked: dict[str, Any] = {"image_size": image_size, "n_parallel": n_parallel, "epochs": epochs}
    if suite is Suite.search:
        if backbone or rank or precision:
            raise UsageError("--suite search runs the study lr_rank; leave --backbone, --rank and --precision out")
        content = _search({**asked, "n_seeds": seeds}, time, str(where), plot, say)
    elif suite in SHIPPED_STUDIES:
        if backbone or rank or precision:
            raise UsageError(f"--suite {suite} runs a study of sweep's; leave --backbone, --rank and --precision out")
        content = SHIPPED_STUDIES[suite]({**asked, "n_seeds": seeds}, str(where), say)
    elif suite in IN_PARTS:
        given = {**asked, **of_one, "n_seeds": seeds, "backbone": backbone, "rank": rank, "precision": precision}
        refused = [given[name] for name in given.keys() - TAKEN_BY[suite]]
        if any(refused) or (suite is Suite.workers and device):
            raise UsageError(NOT_FOR[suite])
        IN_PARTS[suite]({name: given[name] for name in TAKEN_BY[suite]}, device, json_file, say)
        return
    else:
        asked |= {"backbone": backbone, "rank": rank}
        given = {name: value for name, value in asked.items() if value is not None}
        if backbone is not None and image_size is None:
            given["image_size"] = None  # the backbone's own
        family = LADDER_SIZES if side_network is SideNetwork.ladder else {}
        sizes = Sizes(**{**SUITES[suite], **family, **given, "device": str(where), "precision": precision or "fp32"})
        if suite is Suite.scaling:
            _scaling(sizes, plot, json_file, say)
            return
        content = _rows(sizes, say)
    if json_file is not None:
        report.write_json(json_file, content)


def _require_fitting(
    suite: Suite,
    *,
    plot: Path | None,
    time: str | None,
    seeds: int | None,
    network: object,
    of_one: Mapping[str, object],
) -> None:
    """Refuse options that mean nothing to a suite.

    Raises:
        UsageError: With the option.
    """
    if plot is not None and suite not in (Suite.scaling, Suite.search):
        raise UsageError("--plot works with the suites scaling and search only; add --suite, or leave --plot out")
    if suite is Suite.scaling and network:
        raise UsageError(
            "--suite scaling trains on random features of many shapes; leave --backbone and --image-size out"
        )
    if suite is not Suite.search and time:
        raise UsageError("--time belongs to --suite search; leave it out")
    if seeds and suite in (Suite.quick, Suite.paper, Suite.scaling, Suite.workers, Suite.busy):
        raise UsageError("--seeds belongs to the suites search, accuracy, proposals and shapes; leave it out")
    for owner, names in OPTIONS_OF_ONE.items():
        for name in names:
            if suite != owner and of_one[name] is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} belongs to --suite {owner}; leave it out, or give that suite"
                )


def _rows(sizes: "Sizes", say: Callable[[str], None]) -> dict[str, Any]:
    from sweep.bench.measure import run_benchmark
    from sweep.bench.report import benchmark_json, show_benchmark
    from sweep.bench.workload import Workload

    benchmark = run_benchmark(Workload.of_backbone(sizes), say)
    show_benchmark(stdout, benchmark, sizes)
    return benchmark_json(benchmark, sizes)


def _scaling(sizes: "Sizes", plot: Path | None, json_file: Path | None, say: Callable[[str], None]) -> None:
    from sweep.bench.report import scaling_json, show_scaling, write_json, write_plot
    from sweep.bench.scaling import Point, run_scaling

    points: list[Point] = []

    def save() -> None:
        if json_file is not None:
            write_json(json_file, scaling_json(points, sizes))

    save()
    for point in run_scaling(sizes, say):
        points.append(point)
        save()
    show_scaling(stdout, points)
    if plot is not None:
        write_plot(plot, points)


def _search(
    asked: dict[str, Any], time: str | None, device: str, plot: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    from sweep.bench.report import search_json, show_search, write_search_plot
    from sweep.bench.search import SearchSizes, run_search_benchmark
    from sweep.study.budget import parse_duration

    given = {name: value for name, value in asked.items() if value is not None}
    if time is not None:
        given["wall_seconds"] = parse_duration(time)
    sizes = SearchSizes(**given, device=device)
    benchmark = run_search_benchmark(sizes, say)
    show_search(stdout, benchmark, sizes)
    if plot is not None:
        write_search_plot(plot, benchmark, sizes)
    return search_json(benchmark, sizes)

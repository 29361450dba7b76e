"""Options of the workers that lanes train on."""

from typing import Annotated

import typer

from sweep.cli.options import PLACE

Workers = Annotated[
    int | None,
    typer.Option(
        help="Train the lanes on this many worker processes: one GPU each where there are GPUs, else a share of the "
        "cores each; 0 for none. The tables do not depend on it.",
        min=0,
        rich_help_panel=PLACE,
    ),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Train the lanes on workers of this Ray cluster: `auto` on one of its machines, `HOST:6379` within its "
        "network, `ray://HOST:10001` from elsewhere. There are as many workers as the cluster has room for, or as "
        "`--workers` says. See docs/cluster.md.",
        rich_help_panel=PLACE,
    ),
]
WorkerTimeout = Annotated[
    str | None,
    typer.Option(
        help="How long to wait when there is no worker: `90s`, `10m` (the default). Then the run ends, and can be "
        "resumed. A worker that hangs for longer than this is replaced.",
        rich_help_panel=PLACE,
    ),
]
LanesPerWorker = Annotated[
    int | None,
    typer.Option(
        help="How many lanes of one shape a worker trains at a time, at most. If it has more, it trains one stack "
        "after the other. If not given, as many as fit in the memory that it has measured.",
        min=1,
        rich_help_panel=PLACE,
    ),
]

"""`sweep data`: list the data sets that have a name."""

from rich.table import Table

from sweep.terminal.console import stdout


def data() -> None:
    """List the data sets that you can give to `--data` by name: task, size, licence, and whether it is downloaded.

    docs/data.md explains how to use your own images and texts: folders, tables, arrays, saved Hugging Face data sets.
    """
    from sweep.data.packaged import DATA_SETS
    from sweep.data.suites import PACKAGED_SUITES
    from sweep.machine.paths import default_cache_dir

    cache_dir = default_cache_dir()
    table = Table(title="data sets by name", title_justify="left")
    for heading in ("--data", "task", "outputs", "train / val / test", "what", "licence", "where"):
        table.add_column(heading, justify="right" if heading == "outputs" else "left", no_wrap=heading == "--data")
    for name, packaged in DATA_SETS.items():
        sizes = " / ".join(map(str, packaged.sizes))
        where = packaged.whereabouts(cache_dir)
        asked = f" (--accept-licence {packaged.terms})" if packaged.terms else ""
        cells = (str(packaged.n_classes), sizes, packaged.content, packaged.licence + asked, where)
        table.add_row(name, packaged.task, *cells)
    stdout.print(table)
    for name, groups in PACKAGED_SUITES.items():
        members = "; ".join(f"{group}: {', '.join(tasks)}" for group, tasks in groups.items())
        stdout.print(f"{name}, several at once: {members}", highlight=False)
    stdout.print(
        "None of them is VTAB's. Photographs: fashion-mnist, elpv, elpv-type and faces, all of them grey.",
        highlight=False,
    )

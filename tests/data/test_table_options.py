"""Tables as other tools write them: absolute paths, other folders and column names, separators and types."""

import json
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sweep
import sweep.cli
from sweep.data import DataSet, TableOptions, load_data
from sweep.errors import UsageError
from sweep.running.recorded import recorded_data

N = 12
LABELS = ["cat", "dog"] * 6


def pictures(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(N):
        Image.new("RGB", (5, 4), (10 * number, 0, 0)).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(N)]


def load(path: Path, **options: str) -> DataSet:
    return load_data(str(path), seed=0, cache_dir=Path("unused"), table=TableOptions(**options))


def by_red(data: DataSet) -> list[str]:
    found = {
        split.open(i).getpixel((0, 0))[0]: data.class_names[split.labels[i]]
        for split in (data.train, data.val, data.test)
        for i in range(split.n_images)
    }
    return [found[10 * number] for number in range(N)]


def write(path: Path, rows: pd.DataFrame, separator: str = ",") -> Path:
    rows.to_csv(path, index=False, sep=separator)
    return path


def test_absolute_paths_inside_the_folder_are_accepted(tmp_path: Path) -> None:
    names = pictures(tmp_path / "data" / "images")
    relative = pd.DataFrame({"path": [f"images/{name}" for name in names], "label": LABELS})
    absolute = relative.assign(path=[str(tmp_path / "data" / path) for path in relative["path"]])
    data = load(write(tmp_path / "data" / "photos.csv", absolute))
    assert by_red(data) == LABELS
    same = load(write(tmp_path / "data" / "photos.csv", relative))
    assert data.train.fingerprint == same.train.fingerprint, "the images are the same, whatever form their paths have"
    (tmp_path / "link").symlink_to(tmp_path / "data")
    behind = absolute.assign(path=[str(tmp_path / "link" / path) for path in relative["path"]])
    assert by_red(load(write(tmp_path / "data" / "photos.csv", behind))) == LABELS


def test_absolute_paths_elsewhere_are_refused_and_the_remedy_works(tmp_path: Path) -> None:
    names = pictures(tmp_path / "images")
    rows = pd.DataFrame({"path": [str(tmp_path / "images" / name) for name in names], "label": LABELS})
    (tmp_path / "tables").mkdir()
    path = write(tmp_path / "tables" / "photos.csv", rows)
    with pytest.raises(UsageError, match=r"photos\.csv:2: .*0\.png leads out of .*tables; .* with --image-root"):
        load(path)
    assert by_red(load(path, image_root=str(tmp_path / "images"))) == LABELS
    relative = write(tmp_path / "tables" / "photos.csv", rows.assign(path=names))
    assert by_red(load(relative, image_root=str(tmp_path / "images"))) == LABELS
    with pytest.raises(UsageError, match="--image-root nowhere is not a folder"):
        load(relative, image_root="nowhere")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_of_other_names(tmp_path: Path, suffix: str) -> None:
    rows = pd.DataFrame({"file": pictures(tmp_path), "label": "not this one", "kind": LABELS})
    path = tmp_path / f"photos.{suffix}"
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path, index=False)
    assert by_red(load(path, path_column="file", label_column="kind")) == LABELS
    with pytest.raises(UsageError, match=r"has no column path .*other names, give --path-column and --label-column"):
        load(path, label_column="kind")
    with pytest.raises(UsageError, match=r"has no column breed \(its columns: file, label, kind\)"):
        load(path, path_column="file", label_column="breed")


def test_a_regression_under_another_name(tmp_path: Path) -> None:
    rows = pd.DataFrame({"path": pictures(tmp_path), "age": [float(n) / 2 for n in range(N)]})
    options = TableOptions(label_column="age")
    path = str(write(tmp_path / "photos.csv", rows))
    data = load_data(path, seed=0, cache_dir=tmp_path, task="regression", table=options)
    assert (data.task, data.class_names) == ("regression", ("age",))


@pytest.mark.parametrize(("separator", "name"), [(";", "photos.csv"), ("\t", "photos.csv"), ("\t", "photos.tsv")])
def test_other_separators(tmp_path: Path, separator: str, name: str) -> None:
    labels = ["a cat, grey", "dog"] * 6
    rows = pd.DataFrame({"path": pictures(tmp_path), "label": labels, "note": "one; two, and three"})
    assert by_red(load(write(tmp_path / name, rows, separator))) == labels


def test_a_comma_in_the_header_does_not_hide_the_separator(tmp_path: Path) -> None:
    rows = pd.DataFrame({"path": pictures(tmp_path), "label": LABELS, "a; b; c; d": 1})
    assert by_red(load(write(tmp_path / "photos.csv", rows))) == LABELS


@pytest.mark.parametrize("column", ["note", "text"])
def test_cells_of_any_length(tmp_path: Path, column: str) -> None:
    long = "word " * 40_000  # longer than the 131,072 characters that Python's csv module allows
    item = {"path": pictures(tmp_path)} if column == "note" else {}
    data = load(write(tmp_path / "table.csv", pd.DataFrame({**item, "label": LABELS, column: [long] * N})))
    assert data.train.n_images == 8
    if column == "text":
        assert data.train.open(0) == long.strip()


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="pyarrow has it since version 16")
def test_text_of_arrows_view_type(tmp_path: Path) -> None:
    columns = {"path": pictures(tmp_path), "label": LABELS, "split": ["train"] * 8 + ["test"] * 4}
    table = pa.table({name: pa.array(values).cast(pa.string_view()) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "photos.parquet")
    assert pq.ParquetFile(tmp_path / "photos.parquet").schema_arrow.field("path").type == pa.string_view()
    assert by_red(load(tmp_path / "photos.parquet")) == LABELS


@pytest.mark.parametrize("spec", ["folder", "count", "objects"])
def test_options_of_tables_are_refused_for_other_data(photos: Path, spec: str) -> None:
    data = {"folder": str(photos), "count": "count", "objects": {"all": []}}[spec]
    with pytest.raises(
        UsageError, match=r"--label-column is for tables \(\.csv, \.tsv, \.parquet\), but .* is not; leave"
    ):
        load_data(data, seed=0, cache_dir=photos, table=TableOptions(label_column="kind"))


def test_a_run_on_such_a_table_prints_a_summary_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = pictures(tmp_path / "images")
    rows = pd.DataFrame({"file": names, "kind": LABELS, "Split": ["Training"] * 6 + ["valid"] * 2 + ["Test"] * 4})
    path = write(tmp_path / "photos.csv", rows, ";")
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    small = "--study lr_rank --backbone tiny-untrained --group-size 2 --trials 2 --epochs 1 --batch-size 4 --device cpu"
    options = ["--image-root", str(tmp_path / "images"), "--path-column", "file", "--label-column", "kind"]
    arguments = [*small.split(), "--data", str(path), *options, "--resize", "crop"]

    def call(*command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sweep", *command])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return " ".join((captured.out + captured.err).split())

    line = "classes: 2 (cat 3, dog 3); train 6, val 2, test 4"
    assert line in call("plan", *arguments)
    out = tmp_path / "run"
    printed = call("run", *arguments, "--out", str(out))
    assert printed.index(line) < printed.index("plan:"), "before anything is computed"
    config = json.loads((out / "config.json").read_text())
    assert config["transform"]["crop_pct"] == 0.9
    assert recorded_data(config, tmp_path, splits=("train", "val", "test")).class_names == ("cat", "dog")
    assert sweep.load_run(out).best.load().transform.crop_pct == 0.9
    call("verify", str(out), "--trial", "0")
    (out / "summary.json").unlink()
    call("resume", str(out))

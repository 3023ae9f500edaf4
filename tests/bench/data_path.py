"""`python -m tests.bench.data_path`: what the data path takes, beside the plain way, in one run on one machine.

Each figure is a function. What is measured is a command (`python -m mlops ...`) in a process of its own, against an S3
server of its own, so that the numbers of two versions may be compared whatever lies behind a command. `cost of rows` is
the CPU time of a command on all rows less that of the same command on a thousand. The plain way stands in PLAIN: what
one would write without the platform, on the same file on the disk. Sizes by --rows; figures by their names.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_connection, create_server, socket
from typing import Any, NamedTuple

from tests.servers import ACCESS_KEY, S3, SECRET_KEY

FEW = 1_000  # rows, of which a command takes what it takes of none
NUMBERS = 10
YEARS = 3
FORMS = ("csv", "parquet")
ROW_GROUP = 1 << 17  # rows of a table that are read together
AIM = 512  # MiB, which what a fit reads must be made in, however many rows there are
DECLARATION = """
from mlops.datasets.declaration import Column, Dataset, EpochSeconds, Label, Source, SplitByTime

DATASET = Dataset(
    name={name!r},
    description="Made for measurements.",
    source=Source(file="rows.{form}", format="{form}"),
    columns=(
        Column("at", "integer", low=0, feature=False),
        *(Column(f"n{{i}}", "number", low=-100, high=100) for i in range({numbers})),
        *(Column(f"i{{i}}", "integer", low=0, high=1_000_000, nullable={nullable}) for i in range({integers})),
        Column("kind", "category", values=("a", "b", "c")),
        Column("positive", "integer", low=0, high=1, feature=False),
    ),
    label=Label("positive", equals=1),
    event_time=EpochSeconds("at"),
    key=("at",),
    duplicates=0.0,
    split=SplitByTime(test_fraction=0.2),
    rows=(1, 1_000_000_000),
)
"""
# Each gets the path of the file. What is to be compared is what the process takes, or the CPU seconds that it prints.
PLAIN = {
    "validation": """
import tempfile
import great_expectations as gx
from great_expectations.data_context.types.base import ProgressBarsConfig
table = pd.read_parquet(sys.argv[1])
context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = ProgressBarsConfig(globally=False)
suite = gx.ExpectationSuite("s")
suite.add_expectation(gx.expectations.ExpectColumnValuesToBeUnique(column="at"))
for name in table.columns:
    suite.add_expectation(gx.expectations.ExpectColumnValuesToNotBeNull(column=name))
for name in [f"n{i}" for i in range(10)]:
    suite.add_expectation(gx.expectations.ExpectColumnValuesToBeBetween(column=name, min_value=-100, max_value=100))
suite = context.suites.add(suite)
batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
definition = context.validation_definitions.add(gx.ValidationDefinition(name="v", data=batch, suite=suite))
with tempfile.TemporaryDirectory() as site:
    backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": site}
    context.add_data_docs_site(site_name="site", site_config={"class_name": "SiteBuilder", "store_backend": backend})
    assert definition.run(batch_parameters={"dataframe": table}).success
    context.build_data_docs(["site"])
""",
    "drift": """
from scipy import stats
table = pd.read_parquet(sys.argv[1], columns=["n0"])["n0"].to_numpy()
before = time.process_time()
stats.ks_2samp(table, table + 0.001)
print(time.process_time() - before)
""",
    "memory": """
table = (pd.read_csv if sys.argv[1].endswith("csv") else pd.read_parquet)(sys.argv[1])
table.to_parquet(sys.argv[1] + ".raw")
table = pd.read_parquet(sys.argv[1] + ".raw").drop_duplicates("at", keep="last")
edge = int(len(table) * 0.8)
table.iloc[:edge].to_parquet(sys.argv[1] + ".train")
table.iloc[edge:].to_parquet(sys.argv[1] + ".test")
""",
    "integers": """
table = pd.read_parquet(sys.argv[1])
before = time.process_time()
for i in range(4):
    pd.to_numeric(table[f"i{i}"], errors="coerce").astype("Int64")
print((time.process_time() - before) / 4)
""",
    "light": "",
}
MAKE = """
rows, path, numbers, integers, missing, years = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), \
    float(sys.argv[5]), float(sys.argv[6])
import pyarrow as pa, pyarrow.csv, pyarrow.parquet
made = pyarrow.csv.CSVWriter if path.endswith("csv") else pyarrow.parquet.ParquetWriter
writer, random, step = None, np.random.default_rng(7), 131_072
seconds = years * 365 * 86_400
begin = int(time.time()) - seconds
for start in range(0, rows, step):
    count = min(step, rows - start)
    table = {"at": (begin + (np.arange(start, start + count) * seconds / rows)).astype(np.int64)}
    table |= {f"n{i}": random.uniform(-90, 90, count) for i in range(numbers)}
    for i in range(integers):
        values = random.integers(0, 1_000_000, count)
        table[f"i{i}"] = pa.array(values, mask=random.random(count) < missing) if missing else values
    table |= {"kind": random.choice(["a", "b", "c"], count), "positive": random.integers(0, 2, count)}
    part = pa.table(table)
    writer = writer or made(path, part.schema)
    writer.write_table(part)
writer.close()
"""
HEAD = "import sys, time\nimport numpy as np, pandas as pd\n"


class Used(NamedTuple):
    """What a process took. cpu: seconds; peak: MiB; out: what it printed."""

    cpu: float
    peak: float
    out: str


def used(command: list[str], environment: dict[str, str]) -> Used:
    """Runs a program. Raises RuntimeError with its last words where it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[-8:])} ended with {process.returncode}: {''.join(texts)[-3_000:]}")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, texts[0])


class Relay:
    """Passes connections on to a server, and counts the bytes that it answers."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self._to = port
        self._listening = create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = create_connection(("127.0.0.1", self._to))
            for source, target, counts in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, counts), daemon=True).start()

    def _pass(self, source: socket, target: socket, counts: bool) -> None:
        try:
            while content := source.recv(1 << 16):
                self.answered += len(content) * counts
                target.sendall(content)
        except OSError:
            pass  # the other side has ended
        finally:
            for end in (source, target):
                end.close()


@dataclass
class Bench:
    """folder: where files are made; rows: the sizes asked for, the first being that of most figures.

    loaded: what it took to load each set that was made.
    """

    folder: Path
    server: S3
    rows: list[int]
    relay: Relay = field(init=False)
    loaded: dict[str, Used] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.relay = Relay(int(self.server.url.rpartition(":")[2]))
        (self.folder / "declared").mkdir()

    def environment(self) -> dict[str, str]:
        """That of a task's pod."""
        own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return own | {
            "AWS_ENDPOINT_URL_S3": self.relay.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "MAESTRO_DATA_BUCKET": "data",
            "MAESTRO_REPORTS_BUCKET": "reports",
            "MAESTRO_DAG_ID": "bench",
            "MAESTRO_RUN_ID": "run",
            "MAESTRO_TASK_ID": "task",
            "MAESTRO_RESULT_PATH": str(self.folder / "result"),
        }

    def run(self, *arguments: str) -> tuple[Used, dict[str, Any]]:
        """What a command took, and its result."""
        program = [sys.executable, "-m", "tests.bench.declared", str(self.folder / "declared")]
        environment = self.environment() | {"MAESTRO_TASK_ID": arguments[1]}
        took = used([*program, *arguments], environment)
        return took, json.loads((self.folder / "result").read_text())

    def plain(self, name: str, *arguments: str) -> Used:
        return used([sys.executable, "-c", HEAD + PLAIN[name], *arguments], self.environment())

    def dataset(
        self, rows: int, *, numbers: int = NUMBERS, integers: int = 0, missing: float = 0.0, form: str = "parquet"
    ) -> str:
        """The name of a set of so many rows, evenly over the years that end now, which lies in the store."""
        name = f"made_{rows}_{numbers}_{integers}_{int(missing * 100)}_{form}"
        if name in self.loaded:
            return name
        declaration = DECLARATION.format(name=name, numbers=numbers, integers=integers, nullable=missing > 0, form=form)
        (self.folder / "declared" / f"{name}.py").write_text(declaration)
        self.file(name).parent.mkdir(parents=True)
        sizes = map(str, (rows, self.file(name), numbers, integers, missing, YEARS))
        used([sys.executable, "-c", HEAD + MAKE, *sizes], self.environment())
        self.loaded[name], _ = self.run("ingestion", "load", "--dataset", name, "--folder", str(self.folder / "files"))
        return name

    def window(self, dataset: str, hours: float) -> str:
        """The key of the newest rows of a set."""
        _, result = self.run("data-quality", "window", "--dataset", dataset, "--window-hours", str(hours))
        return str(result["data"])

    def file(self, dataset: str) -> Path:
        return self.folder / "files" / dataset / f"rows.{dataset.rpartition('_')[2]}"


@contextmanager
def bench(rows: list[int]) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="data-path-"))
    try:
        with S3(folder) as server:
            made = Bench(folder, server, rows)
            made.run("ingestion", "buckets", "--name", "data", "--name", "reports", "--wait", "30")
            yield made
    finally:
        shutil.rmtree(folder)


class Figure(NamedTuple):
    """most: what `ours` must not go beyond on any machine; None where that depends on the machine."""

    name: str
    ours: float
    plain: float | None
    unit: str
    most: float | None = None

    @property
    def holds(self) -> bool:
        return self.most is None or self.ours <= self.most


def _validated(made: Bench, dataset: str) -> float:
    """CPU seconds of the command."""
    data = str(made.run("ingestion", "download", "--dataset", dataset)[1]["data"])
    return made.run("data-quality", "validate", "--dataset", dataset, "--data", data)[0].cpu


def validation(made: Bench) -> list[Figure]:
    """Of 13 columns and a key, with Data Docs; the plain way is Great Expectations with 24 of its own, and Data Docs.

    Of few rows it is what imports and pages take.
    """
    rows, datasets = made.rows[0], [made.dataset(FEW), made.dataset(made.rows[0])]
    ours = [_validated(made, dataset) for dataset in datasets]
    plain = [made.plain("validation", str(made.file(dataset))).cpu for dataset in datasets]
    return [
        Figure(f"validation of {FEW:,} x 13", ours[0], plain[0], "CPU s"),
        Figure(
            f"validation of {rows:,} x 13: cost of rows",
            ours[1] - ours[0],
            (cost := plain[1] - plain[0]),
            "CPU s",
            cost / 3,
        ),
    ]


def drift(made: Bench) -> list[Figure]:
    """A column: of 20 numbers in one set, less 10 of them in another. All rows are the window."""
    rows, cpu = made.rows[0], []
    for numbers in (NUMBERS, 2 * NUMBERS):
        dataset = made.dataset(rows, numbers=numbers)
        made.run("drift", "reference", "--dataset", dataset, "--fraction", "1")
        options = ("--data", made.window(dataset, YEARS * 365 * 24 + 1), "--effect-threshold", "0.2")
        cpu.append(made.run("drift", "compare", "--dataset", dataset, *options)[0].cpu)
    plain = float(made.plain("drift", str(made.file(made.dataset(rows)))).out)
    name = f"drift of a column, {rows:,} x {rows:,}, with its reading"
    return [Figure(name, (cpu[1] - cpu[0]) / NUMBERS, plain, "CPU s", plain / 2)]


def memory(made: Bench) -> list[Figure]:
    """The most that a command holds from the files to what a fit reads, at each size, and the largest of these peaks.

    Of 13 columns, one of them a nullable integer. The plain way does all of it in one process.
    """
    figures = []
    for rows in made.rows:
        sets = {form: made.dataset(rows, numbers=NUMBERS - 1, integers=1, missing=0.1, form=form) for form in FORMS}
        peaks = {f"load of {form}": made.loaded[dataset].peak for form, dataset in sets.items()}
        dataset = sets["parquet"]
        took, result = made.run("ingestion", "download", "--dataset", dataset)
        peaks["download"], data = took.peak, str(result["data"])
        peaks["validate"] = made.run("data-quality", "validate", "--dataset", dataset, "--data", data)[0].peak
        for command in ("preprocess", "engineer"):
            took, result = made.run("features", command, "--dataset", dataset, "--data", data)
            peaks[command], data = took.peak, str(result.get("data", data))
        plain = {form: made.plain("memory", str(made.file(dataset))).peak for form, dataset in sets.items()}
        for name, peak in peaks.items():
            beside = plain["csv" if name == "load of csv" else "parquet"]
            figures.append(Figure(f"peak of {name} at {rows:,} rows", peak, beside, "MiB"))
        whole = f"memory of a fit's input at {rows:,} rows ({AIM} at most is the aim)"
        figures.append(Figure(whole, max(peaks.values()), max(plain.values()), "MiB", AIM))
    return figures


def bytes_read(made: Bench) -> list[Figure]:
    """To judge the last day: by each step of the monitoring. The plain way reads the set once."""
    rows = made.rows[0]
    dataset = made.dataset(rows)
    made.run("drift", "reference", "--dataset", dataset)
    size = made.file(dataset).stat().st_size / 2**20
    figures: list[Figure] = []

    def read(group: str, command: str, *options: str) -> dict[str, Any]:
        before = made.relay.answered
        _, result = made.run(group, command, "--dataset", dataset, *options)
        name = f"read by {group} {command} of the last day of {YEARS} years, {rows:,} rows"
        most = size * min(1, 1.2 * ROW_GROUP / rows)  # one row group, and what the file says of all
        figures.append(Figure(name, (made.relay.answered - before) / 2**20, size, "MiB", most))
        return result

    data = ("--data", str(read("data-quality", "window", "--window-hours", "24")["data"]))
    read("data-quality", "schema", *data)
    read("data-quality", "quality", *data)
    read("drift", "compare", *data, "--effect-threshold", "0.2")
    return figures


def integers(made: Bench) -> list[Figure]:
    """A nullable integer column in validation: of 4 with missing values, less the same without."""
    rows = made.rows[0]
    cpu = [_validated(made, made.dataset(rows, numbers=1, integers=4, missing=missing)) for missing in (0.1, 0.0)]
    plain = float(made.plain("integers", str(made.file(made.dataset(rows, numbers=1, integers=4, missing=0.1)))).out)
    return [Figure(f"a nullable integer column, {rows:,} rows", (cpu[0] - cpu[1]) / 4, plain, "CPU s")]


def materialization(made: Bench) -> list[Figure]:
    """Beside stock Feast; tests.bench.materialize has more of it."""
    rows = made.rows[0]
    report = made.folder / "materialize.json"
    command = [sys.executable, "-m", "tests.bench.materialize", "--rows", str(rows), "--json", str(report)]
    used(command, made.environment())
    took = {entry["who"]: entry for entry in json.loads(report.read_text())["entries"]}
    return [
        Figure(f"materialization of {rows:,} rows: {name}", took["maestro"][key], took["stock"][key], unit)
        for name, key, unit in (
            ("speed", "rows_per_second", "rows/s"),
            ("client", "cpu_seconds", "CPU s"),
            ("Redis", "redis_cpu_seconds", "CPU s"),
        )
    ]


def light(made: Bench) -> list[Figure]:
    """A command that does next to nothing, the median of 20; the plain way is Python that does nothing."""

    def median(*program: str) -> float:
        return 1_000 * statistics.median(used([sys.executable, *program], made.environment()).cpu for _ in range(20))

    nothing = median("-c", "pass")
    lines = ("datasets list", "notify send --text a")
    return [Figure(f"mlops {line}", median("-m", "mlops", *line.split()), nothing, "CPU ms") for line in lines]


FIGURES: dict[str, Callable[[Bench], list[Figure]]] = {
    function.__name__.replace("_", "-"): function
    for function in (light, integers, validation, drift, bytes_read, memory, materialization)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="(%(default)s)")
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES), help="(all)")
    options = parser.parse_args()
    found: list[Figure] = []
    failed: list[str] = []
    print(f"{'figure':<72}{'ours':>12}{'plain':>12}  unit")
    with bench(options.rows) as made:
        for name in options.figures:
            try:
                measured = FIGURES[name](made)
            except RuntimeError as error:  # such as the end of a process that has no memory left: the others are told
                print(f"{name}: {error}", file=sys.stderr)
                failed.append(name)
                continue
            found += measured
            for figure in measured:
                plain = "" if figure.plain is None else f"{figure.plain:,.3f}"
                print(f"{figure.name:<72}{figure.ours:>12,.3f}{plain:>12}  {figure.unit}", flush=True)
    if options.json:
        figures = [figure._asdict() for figure in found]
        report = {"load": os.getloadavg()[0], "failed": failed, "figures": figures}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    failed += [f"{figure.name} ({figure.most:,.3f} at most)" for figure in found if not figure.holds]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What `loraloom check` finds: nothing on a sound house, and every fault that is planted."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from loraloom import Loom
from loraloom.checks.record import NAME
from loraloom.engine import loom as engine
from loraloom.errors import RowsError
from loraloom.models import find
from loraloom.pipelines import loop
from tests.checks import faults

from .console import SMALL, names, refused, run
from .test_commands import process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from loraloom import Request

NEON = ("--adapter", "neon", *SMALL)
ADAPTERS = find.card("mini").adapters


def broken(folder: Path, *words: str | Path) -> set[str]:
    """The laws that a check finds broken; they are named on stderr and in both reports."""
    result = run("check", "-o", folder, *words)
    assert result.exit_code == 1, result.output
    report = json.loads((folder / "report.json").read_text())
    assert not report["passed"]
    found = {each["law"] for each in report["findings"] if not each["passed"]}
    page = (folder / "report.html").read_text()
    for law in found:
        assert f"broken: {law}, neon" in result.stderr
        assert f"<th>{law}</th>" in page
    assert "What does not hold" in page
    return found


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth") / "record"
    result = run("check", *NEON, "-o", folder.parent / "out", "--record", folder)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return folder


def test_two_adapters_hold_all_laws_and_the_report_stands_alone(tmp_path: Path) -> None:
    sketch = f"mine={ADAPTERS['sketch']}"
    result = run("check", *NEON, "--adapter", sketch, "-o", tmp_path / "a" / "b")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "a" / "b") == ["report.html", "report.json"]
    report = json.loads((tmp_path / "a" / "b" / "report.json").read_text())
    assert report["passed"]
    assert {each["of"] for each in report["findings"]} >= {"neon", "mine", "neon + mine"}
    assert len(report["takes"]) == 2 * 2 * 7
    for take in report["takes"]:
        assert take["equals"]["differing"] == 0
        assert take["equals"]["psnr"] is None  # infinite: equal
        assert take["equals"]["ssim"] == pytest.approx(1)
    tags = Tags((tmp_path / "a" / "b" / "report.html").read_text())
    assert not {"script", "link", "iframe"} & {name for name, _ in tags.found}
    sources = [given["src"] for _, given in tags.found if "src" in given]
    assert len(sources) == 2 * 3 * 7
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not [given for _, given in tags.found if "href" in given]


class Tags(HTMLParser):
    """The elements of a page that browsers do not have to mend."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("fault", "laws"),
    [
        (
            faults.coarse_factors,
            {"fused is float64", "rounded once", "live is float64", "a mix is the sum"},
        ),
        (
            faults.forgets_strength,
            {"strength is linear in weights", "strength is linear in layers"},
        ),
        (faults.restores_badly, {"restored to the bit"}),
        (faults.keeps_what_is_fused, {"the path does not show"}),
        (faults.drifts, {"every path ends alike"}),
    ],
)
def test_a_planted_fault_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    laws: set[str],
) -> None:
    fault(monkeypatch)
    assert broken(tmp_path, *NEON) >= laws


def test_what_cannot_be_tried_is_broken_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.has_no_memory(monkeypatch)
    found = broken(tmp_path, *NEON, "--record", tmp_path / "record")
    assert {"fused is float64", "live is fused", "every path ends alike"} <= found
    assert not {"live is float64", "a mixed batch is each alone"} & found
    report = json.loads((tmp_path / "report.json").read_text())
    failures = [each for each in report["findings"] if each["failure"]]
    for each in failures:
        assert "no room for a weight" in each["failure"]
    assert {each["figure"] for each in failures} == {None}
    assert [take["policy"] for take in report["takes"]] == ["live"] * 4
    assert names(tmp_path / "record") == []
    assert "not made" not in (tmp_path / "report.html").read_text()


def test_a_path_that_fails_leaves_the_others_in_their_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Loom.latents

    def fails_where_fused(loom: Loom, requests: Sequence[Request], **options: Any) -> list[Tensor]:
        if options["policy"] == "fused" and any(
            lora.strength == 0.5 for request in requests for lora in request.loras
        ):
            raise RowsError("no row can be told from another")
        return good(loom, requests, **options)

    monkeypatch.setattr(Loom, "latents", fails_where_fused)
    assert broken(tmp_path, *NEON) == {"every path ends alike"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("not made") == 1
    assert page.count("no row can be told") == 1
    assert page.count("<img") == 4 + 4 + 3


def test_rows_that_change_places_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = loop.run

    def turned(*given: Any) -> dict[str, Tensor]:
        return {name: rows.flip(0) for name, rows in good(*given).items()}

    monkeypatch.setattr(engine, "run", turned)
    found = broken(tmp_path, *NEON)
    assert found == {"a mixed batch is each alone", "a bare row is the base"}


def test_a_record_equals_itself_made_again(tmp_path: Path, record: Path) -> None:
    result = run("check", *NEON, "-o", tmp_path, "--against", record)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert {take["recorded"]["differing"] for take in report["takes"]} == {0}
    assert "recorded latents" in {each["law"] for each in report["findings"]}
    assert "live, recorded" in (tmp_path / "report.html").read_text()


def test_a_record_names_everything_that_it_was_made_with(record: Path) -> None:
    held = json.loads((record / NAME).read_text())
    assert held["setting"]["model_version"] == find.card("mini").version
    assert held["setting"]["asked"]["stages"][0]["sigmas"]["steps"] == 2
    assert [key["name"] for key in held["setting"]["adapters"]] == ["neon"]
    assert held["setting"]["versions"].keys() == {"loraloom", "torch", "diffusers"}
    assert len(held["takes"]) == 8
    assert len(names(record)) == 2 * 8 + 1
    digests = {each["slot"]["path"]: each["digest"] for each in held["takes"]}
    assert digests["start-up"] == digests["set"] != digests["taken off"]


def changed(record: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(record, tmp_path / "changed"))


def test_other_latents_break_the_record(tmp_path: Path, record: Path) -> None:
    folder = changed(record, tmp_path)
    path = folder / "1-neon-set-live.safetensors"
    held = load_file(path)["latents"].clone()
    held[0, 0, 0, 0] += 0.01
    save_file({"latents": held}, path)
    assert broken(tmp_path / "out", *NEON, "--against", folder) == {"recorded latents"}


def test_another_picture_breaks_the_record(tmp_path: Path, record: Path) -> None:
    folder = changed(record, tmp_path)
    shutil.copy(folder / "1-neon-taken_off-live.png", folder / "1-neon-set-live.png")
    found = broken(tmp_path / "out", *NEON, "--against", folder)
    assert found == {"recorded picture, PSNR", "recorded picture, SSIM"}


def test_a_record_of_something_else_is_refused(tmp_path: Path, record: Path) -> None:
    check = ("check", "-o", tmp_path / "out", "--against", record)
    for words, said in (
        (("--adapter", "sketch", *SMALL), "made with the adapters neon, this check has sketch"),
        (("--adapter", "neon", "--size", "64x64", "--steps", "3"), "made with steps 2, this"),
        (("--adapter", "neon", "--steps", "2"), "made with height 64, this check has 128"),
        ((*NEON, "--prompt", "a heart"), "this check has 'a heart'"),
        ((*NEON, "--seed", "4"), "made with seed 0, this check has 4"),
        ((*SMALL, "--adapter", f"neon={ADAPTERS['sketch']}"), "adapter 'neon' of digest"),
    ):
        assert said in refused(*check, *words)
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "no record, or an incomplete one"),
        (lambda folder: (folder / NAME).unlink(), "no record, or an incomplete one"),
        (lambda folder: (folder / NAME).write_text("{"), "is no JSON"),
        (lambda folder: (folder / NAME).write_bytes(b"\xff\xfe"), "is no JSON"),
        (lambda folder: (folder / NAME).write_text("[]"), "is list, want an object"),
        (lambda folder: (folder / NAME).write_text('{"takes": []}'), "no field 'setting'"),
        (lambda folder: edit(folder, "takes", []), "lacks the picture of neon, start-up, live"),
        (lambda folder: (folder / "1-neon-set-live.png").unlink(), "No such file"),
        (lambda folder: (folder / "1-neon-set-live.png").write_text(""), "cannot be read"),
        (lambda folder: (folder / "1-neon-set-live.safetensors").unlink(), "No such file"),
        (
            lambda folder: (folder / "1-neon-set-live.safetensors").write_text("no tensors"),
            "1-neon-set-live.safetensors of the record cannot be read",
        ),
    ],
)
def test_a_broken_record_is_refused_with_one_sentence(
    tmp_path: Path, record: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = changed(record, tmp_path)
    damage(folder)
    assert said in refused("check", *NEON, "-o", tmp_path / "out", "--against", folder)
    assert not (tmp_path / "out" / "report.html").exists()


def edit(folder: Path, field: str, value: object) -> None:
    held = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text(json.dumps({**held, field: value}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--adapter neom", "adapter 'neom' is not known; did you mean 'neon'?"),
        ("--adapter none.safetensors", "'none.safetensors' cannot be read, there is no such file"),
        ("--adapter x=none", "there is no 'none'"),
        ("--adapter x=text.txt", "adapter file 'text.txt' announces a header of"),
        ("--adapter text.txt", "adapter file 'text.txt' announces a header of"),
        ("--adapter x=text.txt:0.5", "has a strength or a time"),
        ("--adapter neon --adapter neon", "names 'neon' 2 times"),
        ("--size 65x64", "width is 65"),
        ("--size large", "--size is 'large'"),
        ("--steps 0", "the number of steps of stage 'base' is 0"),
        ("--seed -1", "the seed is -1"),
        ("--prompt EMPTY", "a prompt is empty"),
        ("--model gpt", "model 'gpt' is no folder"),
        ("-o text.txt", "folder text.txt cannot be made"),
        ("-o out --record text.txt", "folder text.txt cannot be made"),
        ("--against text.txt", "cannot be read"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(folder)
    given = [{"EMPTY": " "}.get(word, word) for word in words.split()]
    assert said in refused("check", *given)
    assert names(folder / "out") == []


@pytest.mark.parametrize("words", ["--help", "--adapter nothing", "--against nothing", "--steps 0"])
def test_what_checks_nothing_imports_no_torch(tmp_path: Path, words: str) -> None:
    code = (
        "import sys\n"
        "from loraloom.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([x for x in ('torch', 'diffusers', 'transformers')"
        " if x in sys.modules], file=sys.stderr)\n"
    )
    done = process("check", "-o", tmp_path / "out", *words.split(), code=code)
    assert done.returncode == (0 if words == "--help" else 2), done.stderr
    assert done.stderr.splitlines()[-1] == "[]"

"""What `loraloom deploy` says fits what is loaded then, and its command is one that runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, get_args

import pytest
from typer.main import get_command

from loraloom import Canvas, Loom, Lora, Request, Sampling
from loraloom.cli import app
from loraloom.core.records import record
from loraloom.core.stage import Sigmas, Stage
from loraloom.engine.deployment import Wanted, deployment, room_for_weights, shared, stages_of
from loraloom.engine.resources import UNITS, Resources, parse_bytes, plans_for, readings
from loraloom.engine.ticket import Encoding, Task, Ticket
from loraloom.engine.warm import cold
from loraloom.engine.wishes import Wish, parse_published
from loraloom.errors import BudgetError, InvalidRequestError
from loraloom.lora.homes import Beside
from loraloom.memory.staging import BESIDE, COPY, FASTEST, Mode, Plan, Room
from loraloom.models import find
from loraloom.models.card import Defaults
from loraloom.models.sizes import working
from loraloom.serve.build import build
from loraloom.settings import Settings, load
from tests.flux import tiny as flux
from tests.ltx2 import tiny as ltx
from tests.wan import tiny as wan

from .console import adapter_file, refused, run
from .test_commands import process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from loraloom.core.stage import Stages
    from loraloom.engine.run import Tick
    from loraloom.lora.model import LoraModel

ROOMY = ("--device-memory", "1G", "--host-memory", "1G")
SMALL = ("--size", "64x64", "--frames", "9")
REFINE = Stage("refine", Sigmas(given=(0.9, 0.4)), wears=(Lora("distilled"),))
STAGES = (Stage("base", Sigmas(2), 0.5), REFINE)
LIGHTLY = (replace(STAGES[0], wears=(Lora("distilled", 0.25),)), REFINE)
"""Two mixes."""
TWO = Request("a star", 1, canvas=Canvas(64, 64, 9, 16.0), stages=STAGES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models by what they are; of mini a copy that runs in few steps."""
    root = tmp_path_factory.mktemp("models")
    short = shutil.copytree(find.BUNDLED["mini"], root / "mini")
    said = json.loads((short / "loraloom.json").read_text())
    for stages in said["pipelines"].values():
        stages[0]["sigmas"] = {"steps": 2}
    (short / "loraloom.json").write_text(json.dumps(said))
    assert record(Defaults, said, "loraloom.json")
    return {
        "mini": str(short),
        "ltx-2.0": str(ltx.folder("2.0", root)),
        "ltx-2.3": str(ltx.folder("2.3", root)),
        "wan": str(wan.folder(root / "wan")),
        "flux": str(flux.folder(root / "flux", guided=True)),
    }


@dataclass(frozen=True, slots=True)
class Case:
    """One call of the command; ``FOLDER`` in it is that of the model."""

    model: str
    words: str

    def given(self, folders: dict[str, str]) -> list[str]:
        return shlex.split(self.words.replace("FOLDER", folders[self.model]))

    def option(self, name: str) -> str:
        words = shlex.split(self.words)
        return words[words.index(name) + 1] if name in words else ""


CASES = (
    Case("mini", "--size 64x64 --frames 5 --lora neon:0.5"),
    Case("mini", "--size 64x64 --frames 5 --pipeline two-stage --lora 'own=FOLDER/a b:0.5'"),
    Case("mini", "--size 64x64 --frames 1 --pipeline two-stage --lora distilled:0.25"),
    Case("ltx-2.3", "--size 64x64 --frames 5 --pipeline distilled"),
    Case("flux", "--size 32x32 --lora style=FOLDER/adapters/style:0.5"),
)
WAN = Case(
    "wan",
    "--size 32x32 --frames 5 --lora high=FOLDER/high.safetensors "
    "--lora low@transformer_2=FOLDER/low.safetensors:0.5",
)


def deployed(case: Case, folders: dict[str, str], *words: str) -> str:
    done = run("deploy", folders[case.model], *ROOMY, *case.given(folders), *words)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


def settings_of(*words: str) -> Settings:
    """What the command line of a server says."""
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    said = command.make_context("serve", list(words)).params
    return load({name: value for name, value in said.items() if name != "config"}, None, {})


def served(settings: Settings, request: Request) -> Ticket:
    """What becomes of a request on a server with these settings."""
    service = build(settings)
    engine = service.engine
    ended: SimpleQueue[Ticket] = SimpleQueue()
    engine.start(cold)
    try:
        while not engine.ready:
            assert engine.failure is None, engine.failure
            time.sleep(0.01)
        assert request.canvas
        kind: Literal["video", "images"] = "video" if request.canvas.frames > 1 else "images"
        task = Task(kind, "", (request,), Encoding("mp4" if kind == "video" else "png"))
        ticket = engine.submit(task)
        engine.watch(ticket.id, lambda e: ended.put(e.ticket) if e.ticket.ended else None)
        return ended.get(timeout=60)
    finally:
        engine.stop(patience=10)


@pytest.mark.parametrize("case", [*CASES, WAN], ids=lambda case: f"{case.model} {case.words}")
def test_the_command_that_is_printed_serves(
    case: Case, folders: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(
        f"{folders['mini']}/adapters/sketch", f"{folders['mini']}/a b", dirs_exist_ok=True
    )
    said = deployed(case, folders)
    assert said.count("\n") == 1
    program, command, *words = shlex.split(said)
    assert (program, command) == ("loraloom", "serve")
    assert words[words.index("--device") + 1] == "cuda"
    words[words.index("--device") + 1] = "cpu"
    words[words.index("--dtype") + 1] = "float32"
    settings = settings_of(*words, "--state", str(tmp_path), "--no-warmup")
    assert (settings.residency, settings.offload) == ("resident", "together")
    card = find.card(settings.model)
    wishes = parse_published(settings.lora)
    width, height = (int(n) for n in case.option("--size").split("x"))
    frames = int(case.option("--frames") or 1)
    request = Request(
        "a red star",
        canvas=Canvas(width, height, frames),
        loras=tuple(wish.worn() for wish in wishes),
        stages=stages_of(card, settings.pipeline),
        sampling=Sampling(3) if case is WAN else None,
    )
    ticket = served(settings, request)
    assert ticket.state == "completed", ticket.outcome.trouble
    worn = {each.name: each.strength for each in ticket.outcome.outputs[0].worn}
    assert {wish.name: wish.worn().strength for wish in wishes}.items() <= worn.items()


def test_only_what_was_said_is_repeated(folders: dict[str, str]) -> None:
    words = shlex.split(deployed(Case("mini", ""), folders))
    assert words[:3] == ["loraloom", "serve", folders["mini"]]
    assert words[3:-4] == [
        *("--device", "cuda", "--dtype", "bfloat16"),
        *("--residency", "resident", "--offload", "together"),
    ]
    assert words[-4::2] == ["--device-budget", "--host-budget"]


def test_rows_and_budgets_fill_the_machine_and_no_more(folders: dict[str, str]) -> None:
    """Rows that are computed together go first, adapters get what is left."""
    card = find.card(folders["mini"])
    given = Wanted(card, Resources("original", "together"), ("neon",), canvas=TWO.canvas)
    (plan,) = [
        each
        for each in plans_for(card, card.defaults.usual, readings(card, (Wish("neon"),)), "float32")
        if (each.mode, each.order) == ("original", "together")
    ]
    spare = working(card, Canvas(64, 64, 9), "float32")
    for rows, extra in ((1, 0), (1, spare // 2), (3, 2 * spare + 5), (8, 9 * spare)):
        room = Room(plan.peak + spare + extra, 4 * 10**6)
        free = room_for_weights(replace(room, spare=spare), plan.sizes)
        shares = shared(plan, free)
        assert shares.rows == rows
        weights = plan.peak - plan.sizes.adapters
        assert weights + shares.device + rows * spare == room.device
        assert shares.host + plan.host == 3 * 10**6
        words = replace(given, resources=Resources("original", "together", room), dtype="float32")
        said = shlex.split(deployment(words).command)
        told = settings_of(*said[2:])
        assert (told.max_batch, told.device_budget, told.host_budget) == (
            rows,
            shares.device,
            shares.host,
        )
    with pytest.raises(BudgetError, match=r"the adapters take .* of the host"):
        room_for_weights(Room(plan.peak, plan.sizes.adapters), plan.sizes)


def size_of(module: nn.Module) -> int:
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))


def planned(name: str, mode: Mode, stages: Stages, brought: Sequence[Wish]) -> Plan:
    """The plan with components together."""
    card = find.card(name)
    every = plans_for(card, stages, readings(card, brought), "float32")
    return next(each for each in every if (each.mode, each.order) == (mode, "together"))


def beside_layers(model: LoraModel) -> int:
    """Bytes of copies; where fused weights are in the layers, one of the two is theirs."""
    weights = model.weights
    layers = [home for home in weights.homes.values() if isinstance(home, Beside)]
    return weights.nbytes - sum(home.nbytes for home in layers)


@pytest.mark.parametrize("model", ["mini", "ltx-2.0", "ltx-2.3"])
@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("stages", [STAGES, LIGHTLY], ids=["one mix", "two mixes"])
def test_what_is_predicted_is_what_is_held(
    stages: Stages, mode: Mode, model: str, folders: dict[str, str]
) -> None:
    name = folders[model]
    style = "neon" if model == "mini" else "style"
    plan = planned(name, mode, stages, (Wish(style),))
    loom = Loom.load(name, plan=plan)
    sizes = plan.sizes.components
    parts = loom.denoiser.components
    assert sizes.keys() == parts.keys()
    for part, module in parts.items():
        assert sizes[part] == pytest.approx(size_of(module), rel=0.01)
    beside, copies = [], []

    def look(tick: Tick) -> None:
        if tick.stage == "refine":
            beside.append(sum(each.wardrobe.kept.nbytes for each in loom.models))
            copies.append(sum(map(beside_layers, loom.models)))

    loom.latents([replace(TWO, stages=stages, loras=(Lora(style),))], progress=look)
    told = plan.on_device(plan.acts[0])
    if mode == "original":
        assert max(beside) == told[BESIDE]
    else:  # room for a second one of the user's is counted: side by side with another
        assert told[BESIDE] / 2 <= max(beside) <= told[BESIDE]
    held = {"original": 0, "snapshot": plan.on_host.get(COPY), "resident": told.get(COPY)}[mode]
    assert max(copies) == held


def test_one_adapter_alone_is_counted_to_the_byte(folders: dict[str, str]) -> None:
    card = find.card(folders["ltx-2.3"])
    stages = (Stage("base", Sigmas(2)),)
    request = replace(TWO, stages=stages, loras=(Lora("style"),))
    (plan, *_) = plans_for(card, stages, readings(card, (Wish("style"),)), "float32")
    loom = Loom.load(folders["ltx-2.3"])
    loom.latents([request])
    assert plan.sizes.adapters == loom.models[0].wardrobe.kept.nbytes > 0
    assert plan.sizes.own == plan.sizes.changed == 0


TABLE = re.compile(r"^[* ] (\w+), components ([a-z ]+?) {2,}(.+)$", re.MULTILINE)
SHOWN = re.compile(r"([0-9.]+) (B|KiB|MiB|GiB|TiB)")


def shown(text: str) -> list[float]:
    return [float(n) * UNITS[unit.removesuffix("B")[:1]] for n, unit in SHOWN.findall(text)]


def test_the_explanation_shows_the_bytes_of_every_plan_and_act(folders: dict[str, str]) -> None:
    case = Case("mini", "--size 64x64 --pipeline two-stage --lora neon --dtype float32")
    said = deployed(case, folders, "--explain", "--offload", "in turn", "--residency", "snapshot")
    card = find.card(folders["mini"])
    brought = readings(card, (Wish("neon"),))
    every = plans_for(card, card.defaults.pipeline("two-stage"), brought, "float32")
    rows = TABLE.findall(said)
    assert tuple((mode, order) for mode, order, _ in rows) == FASTEST
    for (_, _, numbers), plan in zip(rows, every, strict=True):
        want = [plan.peak, plan.host, plan.travels]
        assert shown(numbers) == pytest.approx(want, rel=0.01, abs=0.6)
    chosen = next(plan for plan in every if (plan.mode, plan.order) == ("snapshot", "in turn"))
    acts = re.findall(r"^  (\w+(?: \+ \w+)*) {2,}([0-9.]+ \w+)", said, re.MULTILINE)
    told = [(name, *shown(size)) for name, size in acts if name != "beside them"]
    assert [name for name, _ in told] == [" + ".join(act.uses) for act in chosen.acts]
    held = [sum(chosen.on_device(act).values()) for act in chosen.acts]
    assert [size for _, size in told] == pytest.approx(held, rel=0.01)
    assert f"plan: {chosen}" in said
    assert "no room" not in said


def marked(said: str) -> tuple[str, str]:
    """The modes of the plan that is chosen."""
    ((mode, order, _),) = [row for row in TABLE.findall(said) if f"* {row[0]}, components" in said]
    return mode, order


def test_memory_decides_what_is_chosen(folders: dict[str, str]) -> None:
    name = folders["mini"]
    given = ("deploy", name, "--pipeline", "two-stage", "--lora", "neon", *SMALL, "--explain")
    card = find.card(name)
    brought = readings(card, (Wish("neon"),))
    every = plans_for(card, card.defaults.pipeline("two-stage"), brought, "bfloat16")
    roomy = run(*given, *ROOMY).stdout
    spare = int(shown(next(x for x in roomy.splitlines() if "beside them" in x))[0] * 1.05)
    slack = 2**16
    left = list(every)
    while left:
        want = left[0]
        adapters = want.sizes.adapters + want.sizes.own
        host = -(-(want.host + slack + adapters) * 4 // 3)  # a quarter is left to others
        device = want.peak + slack + spare
        said = run(*given, "--device-memory", str(device), "--host-memory", str(host))
        first = next(
            plan for plan in every
            if plan.peak <= want.peak + slack and plan.host <= want.host + slack
        )  # fmt: skip
        words = shlex.split(said.stdout.splitlines()[0])
        assert words[words.index("--residency") + 1] == first.mode
        assert words[words.index("--offload") + 1] == first.order
        left = left[1:]
    least = min(every, key=lambda plan: plan.peak)
    sentence = refused(*given, "--device-memory", str(least.peak), "--host-memory", "1G")
    assert f"the smallest plan ({least}) takes" in sentence
    assert str(least.peak) in sentence
    assert "there are" in sentence


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--pipeline two-stag", "'two-stag' is not known; did you mean 'two-stage'"),
        ("--lora neom", "adapter 'neom' is not known; did you mean 'neon'"),
        ("--lora x=none.safetensors", "there is no 'none.safetensors'"),
        ("--lora x=odd.safetensors", "transformer_blocks.77.attn1.to_q"),
        ("--lora x=text.txt", "adapter file 'text.txt' announces a header"),
        ("--lora x@unet=one.safetensors", "an adapter is for component 'unet'"),
        ("--lora neon:1,2", "--lora 'neon' has more than one strength"),
        ("--lora neon@0.2-0.7", "--lora 'neon' has more than one strength"),
        ("--lora 'my style=one.safetensors'", "cannot be published under this name"),
        ("--host-memory 1K --lora neon", "the adapters take"),
        ("--lora neon:nan", "the strength of 'neon' is nan"),
        ("--lora neon --lora neon:2", "names adapter 'neon' 2 times"),
        ("--size 65x64", "width is 65, model"),
        ("--size 64", "--size is '64', want WIDTHxHEIGHT"),
        ("--pipeline two-stage --size 96x64", "width of stage 'base' is 48"),
        ("--frames 10", "frames is 10, model"),
        ("--frames 0", "frames is 0, model 'mini' wants a multiple of 4 plus 1"),
        ("--dtype float8", "dtype is 'float8', want one of float32, bfloat16, float16"),
        ("--device-memory 1M", "the smallest plan ("),
        ("--device-memory 1Q", "--device-memory is '1Q', want bytes with a unit, e.g. 80G"),
        ("--device-memory -1G", "--device-memory is '-1G', want bytes"),
        ("--device-memory ''", "--device-memory is '', want bytes"),
        ("--host-memory 1.G", "--host-memory is '1.G', want bytes"),
        ("--residency resident --offload 'in turn'", "no plan for residency 'resident' with"),
        ("--residency snapshot --offload ahead", "no plan for residency 'snapshot' with"),
        ("--residency molten", "Invalid value for '--residency'"),
        ("--offload sometimes", "Invalid value for '--offload'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_one_sentence(
    words: str, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    adapter_file(folder / "one.safetensors", 1)
    adapter_file(folder / "odd.safetensors", 3, "transformer_blocks.77.attn1.to_q")
    room = () if "--device-memory" in words else ("--device-memory", "1G")
    assert says in refused("deploy", "mini", *room, *shlex.split(words))


def test_a_model_that_makes_pictures_alone_is_asked_for_none_else(folders: dict[str, str]) -> None:
    said = refused("deploy", folders["flux"], *ROOMY, "--size", "32x32", "--frames", "9")
    assert "makes pictures alone and wants 1" in said
    assert "Missing option '--device-memory'" in refused("deploy", "mini")
    assert "model 'gpt' is no folder" in refused("deploy", "gpt", *ROOMY)


def test_bytes_are_spelled_with_units_of_1024() -> None:
    spelled = {
        "0": 0, "17": 17, "1K": 2**10, "80G": 80 * 2**30, "80 GiB": 80 * 2**30, "1.5t": 3 * 2**39,
        " 512mb ": 2**29, "0.5M": 2**19, "7B": 7,
    }  # fmt: skip
    assert {text: parse_bytes(text, "--x") for text in spelled} == spelled
    for text in ("", "G", "1e9", "1,5G", "-1", "1GG", "inf", "1 0G", ".5G"):
        with pytest.raises(InvalidRequestError, match="--x is"):
            parse_bytes(text, "--x")


CODE = (
    "import sys\n"
    "from loraloom.cli import main\n"
    "try:\n    main()\n"
    "finally:\n    print([x for x in ('torch', 'diffusers', 'transformers', 'peft')"
    " if x in sys.modules], file=sys.stderr)\n"
)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("mini", "--pipeline", "two-stage", "--lora", "neon", "--explain", *ROOMY), 0),
        (("mini", "--device-memory", "1M"), 2),
    ],
)
def test_a_plan_is_made_without_torch(words: tuple[str, ...], code: int) -> None:
    done = process("deploy", *words, code=CODE)
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"

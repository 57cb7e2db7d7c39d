"""Plans: which components come and go, what that takes, and which plan a room allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.errors import BudgetError
from loraloom.memory.residency import ORIGINAL, Home
from loraloom.memory.staging import FASTEST, Order, Room, Sizes, choose, fits, plan, plans

SIZES = Sizes(
    {"text_encoder": 24, "connectors": 3, "transformer": 40, "latent_upsampler": 1, "vae": 2},
    own=8,
    changed=36,
)
USES = (
    ("text_encoder",),
    ("connectors",),
    ("transformer",),
    ("latent_upsampler",),
    ("connectors",),
    ("transformer",),
    ("vae",),
)
ALL = sum(SIZES.components.values())


def test_together_everything_is_there_and_nothing_travels_but_copies() -> None:
    original, snapshot, resident = (
        plan(mode, "together", SIZES, USES) for mode in ("original", "snapshot", "resident")
    )
    assert (original.peak, original.host, original.travels) == (ALL + 8, 0, 0)
    assert (snapshot.peak, snapshot.host, snapshot.travels) == (ALL, 72, 72)
    assert (resident.peak, resident.host, resident.travels) == (ALL + 36, 0, 0)


def test_in_turn_stage_1_leaves_before_the_upsampler_and_stage_2_come() -> None:
    made = plan("original", "in turn", SIZES, USES)
    assert [sorted(act.present) for act in made.acts] == [list(uses) for uses in USES]
    assert made.peak == 40 + 8
    assert made.host == ALL
    assert made.travels == ALL + 3 + 40  # connectors and transformer come twice


def test_ahead_the_next_component_is_there_already() -> None:
    made = plan("original", "ahead", SIZES, USES)
    assert made.acts[0].present == {"text_encoder", "connectors"}
    assert made.acts[2].present == {"transformer", "latent_upsampler"}
    assert made.acts[-1].present == {"vae"}
    assert made.peak == 40 + 3 + 8
    assert made.travels == ALL + 3 + 40


def test_what_requests_bring_is_beside_the_weights_in_every_mode() -> None:
    brought = Sizes(SIZES.components, 5, SIZES.own, SIZES.changed)
    for mode, order in FASTEST:
        without, with_ = (plan(mode, order, sizes, USES) for sizes in (SIZES, brought))
        assert with_.peak == without.peak + 5


def test_residencies_are_those_of_the_modes() -> None:
    made = {mode: plan(mode, "together", SIZES, USES).residency for mode, _ in FASTEST}
    assert made["original"] == ORIGINAL
    assert (made["snapshot"].home, made["snapshot"].budget) == (Home.HOST, 36)
    assert (made["resident"].home, made["resident"].budget) == (Home.BESIDE, 36)


@pytest.mark.parametrize("order", ["ahead", "in turn"])
def test_copies_on_the_device_do_not_go_with_components_that_leave_it(order: Order) -> None:
    with pytest.raises(BudgetError, match=f"'resident' keeps .* which components {order} are to"):
        plan("resident", order, SIZES, USES)


@pytest.mark.parametrize(
    ("room", "want"),
    [
        (Room(1000, 1000), ("resident", "together")),
        (Room(ALL + 35, 1000), ("original", "together")),
        (Room(ALL + 7, 1000), ("snapshot", "together")),
        (Room(ALL - 1, 1000), ("original", "ahead")),
        (Room(50, 1000), ("original", "in turn")),
        (Room(47, 1000), ("snapshot", "in turn")),
        (Room(ALL + 7, ALL - 1), None),
        (Room(39, 1000), None),
        (Room(ALL + 35 + 5, 1000, spare=5), ("original", "together")),
    ],
)
def test_the_fastest_plan_that_there_is_room_for(room: Room, want: tuple[str, str] | None) -> None:
    if want is None:
        with pytest.raises(BudgetError, match=r"the smallest plan .* takes .* there are"):
            choose(plans(SIZES, USES), room)
        return
    made = choose(plans(SIZES, USES), room)
    assert (made.mode, made.order) == want


@given(
    st.integers(0, 200), st.integers(0, 200), st.lists(st.integers(0, 50), min_size=5, max_size=5)
)
def test_a_chosen_plan_fits_and_no_faster_one_does(
    device: int, host: int, bytes_: list[int]
) -> None:
    sizes = Sizes(dict(zip(SIZES.components, bytes_, strict=True)), 0, 8, 36)
    room = Room(device, host)
    every = plans(sizes, USES)
    if not any(fits(each, room) for each in every):
        with pytest.raises(BudgetError):
            choose(plans(sizes, USES), room)
        return
    made = choose(plans(sizes, USES), room)
    assert made.peak <= device
    assert made.host <= host
    assert not any(fits(each, room) for each in every[: every.index(made)])

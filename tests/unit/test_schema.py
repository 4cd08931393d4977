"""Wrong options are refused in one line that names the option and shows the value."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from mimicry.schema import check_options, fits


class Engine:
    def __init__(
        self,
        cylinders: int,
        power: float = 1.0,
        name: str = "v",
        turbo: bool = False,
        fuel: Literal["petrol", "diesel"] = "petrol",
        gears: tuple[int, ...] = (1, 2),
        limit: int | None = None,
        steps: list[int] | None = None,
    ) -> None: ...


class Car:
    def __init__(self, engine: Engine, doors: int = 4) -> None: ...


@dataclass
class Wheel:
    radius: float
    spokes: int = 5


class Anything:
    def __init__(self, first: int, **others: Any) -> None: ...


def drive(speed: float, callback: Callable[[], None] | None = None, *, sound: str = "") -> None: ...


def node(target: Any, **options: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{target.__name__}"} | options


def refusal(config: Any, where: str = "model") -> str:
    """The message, after checking that it is one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        check_options(config, where)
    return str(raised.value)


GOOD = {
    "only what is needed": {"cylinders": 4},
    "every option": {
        "cylinders": 4,
        "power": 2.5,
        "name": "w",
        "turbo": True,
        "fuel": "diesel",
        "gears": [1, 2, 3],
        "limit": 3,
        "steps": [1, 2],
    },
    "int for float": {"cylinders": 4, "power": 2},
    "empty list for tuple": {"cylinders": 4, "gears": []},
    "none for optional": {"cylinders": 4, "limit": None, "steps": None},
}


@pytest.mark.parametrize("options", GOOD.values(), ids=GOOD)
def test_options_that_fit_are_accepted(options: dict[str, Any]) -> None:
    check_options(node(Engine, **options), "model")


BAD = {
    "float for int": ({"cylinders": 4.0}, "model.cylinders must be int, got 4.0"),
    "bool for int": ({"cylinders": True}, "model.cylinders must be int, got True"),
    "string for int": ({"cylinders": "4"}, "model.cylinders must be int, got '4'"),
    "none for int": ({"cylinders": None}, "model.cylinders must be int, got None"),
    "list for int": ({"cylinders": [4]}, "model.cylinders must be int, got [4]"),
    "bool for float": ({"cylinders": 4, "power": True}, "model.power must be float, got True"),
    "string for float": ({"cylinders": 4, "power": "1e-3"}, "model.power must be float, got '1e-3'"),
    "int for bool": ({"cylinders": 4, "turbo": 1}, "model.turbo must be bool, got 1"),
    "int for string": ({"cylinders": 4, "name": 5}, "model.name must be str, got 5"),
    "not one of": ({"cylinders": 4, "fuel": "gas"}, "model.fuel must be Literal['petrol', 'diesel'], got 'gas'"),
    "bool for optional int": ({"cylinders": 4, "limit": False}, "model.limit must be int | None, got False"),
    "float for optional int": ({"cylinders": 4, "limit": 1.5}, "model.limit must be int | None, got 1.5"),
    "wrong item": ({"cylinders": 4, "gears": ["a"]}, "model.gears must be tuple[int, ...], got ['a']"),
    "scalar for list": ({"cylinders": 4, "steps": 3}, "model.steps must be list[int] | None, got 3"),
    "mapping for int": ({"cylinders": {"a": 1}}, "model.cylinders must be int, got {'a': 1}"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_values_of_the_wrong_type_are_refused_with_path_type_and_value(options: dict[str, Any], message: str) -> None:
    assert refusal(node(Engine, **options)) == message


def test_an_unknown_option_is_refused_with_the_options_there_are() -> None:
    message = refusal(node(Wheel, radius=1.0, colour="red"))
    assert message == "model.colour: Wheel has no such option; it has radius, spokes"


def test_a_missing_option_is_named() -> None:
    assert refusal(node(Engine, power=1.0)) == "model.cylinders: Engine needs this option"


def test_a_partial_target_may_miss_options_but_not_have_unknown_or_wrong_ones() -> None:
    check_options(node(Engine, _partial_=True), "model")
    assert refusal(node(Engine, _partial_=True, doors=1)).startswith("model.doors: Engine has no such option")
    assert refusal(node(Engine, _partial_=True, cylinders="4")) == "model.cylinders must be int, got '4'"


def test_hydras_directives_are_no_options() -> None:
    check_options(node(Wheel, radius=1.0, _partial_=False, _convert_="all", _recursive_=True), "model")


def test_dataclasses_and_functions_are_checked_like_classes() -> None:
    assert refusal(node(Wheel, radius="1")) == "model.radius must be float, got '1'"
    assert refusal(node(drive, speed="1")) == "model.speed must be float, got '1'"
    assert refusal(node(drive, speed=1, sound=2)) == "model.sound must be str, got 2"
    assert (
        refusal(node(drive, speed=1, brake=2)) == "model.brake: drive has no such option; it has speed, callback, sound"
    )


def test_nested_targets_are_checked_and_named_by_their_path() -> None:
    check_options(node(Car, engine=node(Engine, cylinders=4)), "model")
    message = refusal(node(Car, engine=node(Engine, cylinders="4")))
    assert message == "model.engine.cylinders must be int, got '4'"
    assert refusal(node(Car, engine=node(Engine))) == "model.engine.cylinders: Engine needs this option"


def test_a_nested_target_is_not_taken_for_a_value_of_its_type() -> None:
    assert refusal(node(Car, engine=4)) == "model.engine must be Engine, got 4"


def test_targets_below_plain_groups_and_lists_are_checked() -> None:
    check_options({"a": [node(Wheel, radius=1.0)], "b": {"c": node(Wheel, radius=2)}, "d": 3, "e": None}, "")
    assert refusal({"b": {"c": node(Wheel)}}, "") == "b.c.radius: Wheel needs this option"
    assert refusal({"a": [node(Wheel, radius=1.0), node(Wheel)]}, "") == "a[1].radius: Wheel needs this option"
    assert refusal([node(Wheel)], "models") == "models[0].radius: Wheel needs this option"


def test_a_target_with_keyword_arguments_takes_any_further_option() -> None:
    check_options(node(Anything, first=1, second="x", third=[1]), "model")
    assert refusal(node(Anything, first="1", second="x")) == "model.first must be int, got '1'"
    assert refusal(node(Anything, second="x")) == "model.first: Anything needs this option"


@pytest.mark.parametrize(
    "path", ["no_such_package.Thing", "math.no_such_function", "mimicry.schema.no.such", "plain", "", "math."]
)
def test_a_target_that_does_not_import_is_refused(path: str) -> None:
    message = refusal({"_target_": path})
    assert re.match(rf"^model\._target_: cannot import {re.escape(repr(path))} \(.+\)$", message)


def test_a_relative_target_is_refused() -> None:
    assert refusal({"_target_": ".schema.fits"}).startswith("model._target_: cannot import '.schema.fits'")


@pytest.mark.parametrize("hint", [int, float, str, int | None, Literal[1], list[int], tuple[int, ...]])
def test_a_boolean_is_no_number_and_no_string(hint: Any) -> None:
    assert not fits(True, hint)


@pytest.mark.parametrize("hint", [bool, bool | None, Any, int | bool])
def test_a_boolean_is_accepted_where_one_is_asked_for(hint: Any) -> None:
    assert fits(True, hint)


def test_a_boolean_is_accepted_where_it_is_one_of_the_literals() -> None:
    assert fits(True, Literal[True, "auto"])


def test_a_boolean_is_no_list_of_booleans() -> None:
    assert not fits(True, list[bool])


def test_booleans_are_no_numbers_inside_a_list_either() -> None:
    assert not fits([True, False], list[int])


@pytest.mark.parametrize("hint", [list[int], tuple[int, ...], list[int] | None])
def test_every_item_of_a_list_is_checked(hint: Any) -> None:
    assert not any(fits([1, 2, 3, "four"], hint) for _ in range(100))


@pytest.mark.parametrize(
    ("value", "hint"), [([1, 2], tuple[int, int]), ([1, "a"], tuple[int, str]), ([], tuple[int, ...])]
)
def test_a_list_may_stand_for_a_tuple(value: Any, hint: Any) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"), [([1], tuple[int, int]), (["a", 1], tuple[int, str]), ("ab", tuple[str, ...])]
)
def test_a_list_stands_for_a_tuple_only_where_length_and_items_fit(value: Any, hint: Any) -> None:
    assert not fits(value, hint)


def test_a_string_is_no_path() -> None:
    assert not fits("x", Path)
    assert fits(Path("x"), Path)

"""What a cluster may set, and how a user's value becomes a node."""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg, types

from engine.config import values
from engine.config.catalogue import OptionCatalogue, canonical
from engine.config.files import replace
from engine.config.rendering import render
from engine.errors import InvalidInput

OPTIONS = [
    cfg.FloatOpt("tick_seconds", default=3.0, min=0.01, max=60.0, mutable=True),
    cfg.IntOpt("retries", default=1, min=0),
    cfg.StrOpt("policy", default="even", choices=["even", "packed"]),
    cfg.StrOpt("greeting"),
    cfg.BoolOpt("loud", default=False),
    cfg.ListOpt("names", default=[]),
    cfg.MultiStrOpt("paths", default=[]),
    cfg.Opt("limits", type=types.Dict(types.Integer()), default={}),
    cfg.StrOpt("password", secret=True),
    cfg.StrOpt("address"),
]
CATALOGUE = OptionCatalogue(
    [("hosts", OPTIONS), ("database", [cfg.StrOpt("url")])], local={"hosts/address", "database"}
)


def parsed(text: str, directory: Path) -> cfg.ConfigOpts:
    """As an oslo program reads the file."""
    file = directory / "rendered.conf"
    replace(file, text, durable=False)
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTIONS, group="hosts")
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return conf


@pytest.mark.parametrize(
    ("name", "given", "node"),
    [
        ("hosts.tick_seconds", "1", "1.0"),
        ("hosts.tick_seconds", 1.5, "1.5"),
        ("hosts.retries", "3", "3"),
        ("hosts.policy", "packed", '"packed"'),
        ("hosts.loud", "yes", "true"),
        ("hosts.loud", False, "false"),
        ("hosts.names", "a,b", '["a", "b"]'),
        ("hosts.names", ["a", "b"], '["a", "b"]'),
        ("hosts.paths", ["/a", "/b"], '["/a", "/b"]'),
        ("hosts.limits", {"a": 1}, '{"a": "1"}'),
        ("hosts.greeting", "3", '"3"'),
        ("hosts.greeting", "grüß dich", '"grüß dich"'),
    ],
)
def test_a_value_becomes_the_json_of_its_type(name: str, given: Any, node: str) -> None:
    assert canonical(CATALOGUE.settable(name), given).decode() == node


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("hosts.tick_seconds", "0", "number from 0.01 to 60"),
        ("hosts.tick_seconds", "soon", "number from 0.01 to 60"),
        ("hosts.tick_seconds", "", "it is empty"),
        ("hosts.tick_seconds", "nan", "no finite number"),
        ("hosts.tick_seconds", [1], "a JSON list"),
        ("hosts.retries", "1.5", "whole number, at least 0"),
        ("hosts.policy", "odd", "one of even, packed"),
        ("hosts.greeting", "a\nb", "more than one line"),
        ("hosts.greeting", "x" * 70_000, "65536 at most"),
        ("hosts.greeting", None, "null"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(name: str, given: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refusal:
        canonical(CATALOGUE.settable(name), given)
    assert name in refusal.value.fields


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hosts.tick_secs", r"did you mean hosts\.tick_seconds"),
        ("policy", "say GROUP.OPTION|did you mean"),
        ("cosmos.policy", r"did you mean hosts\.policy"),
        ("cosmos.nothing", "no group 'cosmos'"),
        ("hosts.address", "belongs to one machine"),
        ("database.url", "belongs to one machine"),
    ],
)
def test_an_option_that_cannot_be_set_is_refused_with_a_hint(name: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        CATALOGUE.settable(name)


def test_a_secret_that_does_not_fit_is_not_repeated() -> None:
    with pytest.raises(InvalidInput) as refusal:
        canonical(CATALOGUE.settable("hosts.password"), "hunter2\nhunter2")
    assert "hunter2" not in str(refusal.value)


def test_rendered_values_are_read_back_by_oslo_config(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "tick_seconds": 1.5,
        "policy": "packed",
        "greeting": "plain",
        "loud": True,
        "names": ["a", "b"],
        "paths": ["/a", "/b"],
        "limits": {"a": 1},
    }
    nodes = {f"hosts/{name}": canonical(CATALOGUE.settable(f"hosts.{name}"), v) for name, v in wanted.items()}
    rendered = render(nodes, CATALOGUE, before={}, note="for a test")
    conf = parsed(rendered.text, tmp_path)
    assert not rendered.refused
    assert {name: conf.hosts[name] for name in wanted} == wanted
    assert (tmp_path / "rendered.conf").stat().st_mode & 0o777 == 0o600


@given(text=st.text(alphabet=st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30))
def test_any_line_of_text_survives_the_file(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if "$" in text:  # oslo.config's own reference to another option
        return
    rendered = render({"hosts/greeting": json.dumps(text).encode()}, CATALOGUE, before={})
    conf = parsed(rendered.text, tmp_path_factory.mktemp("rendered"))
    assert rendered.refused or conf.hosts.greeting == text


def test_a_bad_node_leaves_the_last_good_value_in_force(tmp_path: Path) -> None:
    good = {"hosts/tick_seconds": b"1.0", "hosts/policy": b'"packed"'}
    before = render(good, CATALOGUE, before={}).accepted
    rendered = render(good | {"hosts/tick_seconds": b"banana"}, CATALOGUE, before=before)
    assert parsed(rendered.text, tmp_path).hosts.tick_seconds == 1.0
    assert "number from 0.01 to 60" in rendered.refused["hosts/tick_seconds"]


def test_a_bad_node_without_a_good_one_before_leaves_the_default(tmp_path: Path) -> None:
    rendered = render({"hosts/tick_seconds": b"banana"}, CATALOGUE, before={})
    assert parsed(rendered.text, tmp_path).hosts.tick_seconds == 3.0
    assert list(rendered.refused) == ["hosts/tick_seconds"]


def test_what_belongs_to_one_machine_is_never_taken_from_the_cluster() -> None:
    rendered = render({"database/url": b'"sqlite://"', "hosts/address": b'"x"'}, CATALOGUE, before={})
    assert set(rendered.refused) == {"database/url", "hosts/address"}
    parser = configparser.ConfigParser()
    parser.read_string(rendered.text)
    assert parser.sections() == []


def test_options_of_other_programs_are_left_alone() -> None:
    rendered = render({"other/option": b"1"}, CATALOGUE, before={})
    assert not rendered.refused
    assert "other" not in rendered.text


def test_the_bytes_of_a_node_and_what_is_decoded_agree() -> None:
    declared = CATALOGUE.settable("hosts.names")
    assert values.decode(canonical(declared, "a, b"), declared.option) == ["a", "b"]

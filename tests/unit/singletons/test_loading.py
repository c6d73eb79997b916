from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from oslo_config import cfg

from engine.singletons.loading import NAMESPACE, Catalogue, installed, load_singletons
from plugins.singletons.event_retention import EventRetention

HERE = "tests.unit.singletons"


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, NAMESPACE)


def load(*entries: EntryPoint, text: str = "", directory: Path | None = None) -> Catalogue:
    conf = cfg.ConfigOpts()
    files = []
    if directory is not None:
        file = directory / "engine.conf"
        file.write_text(text)
        files = [str(file)]
    conf([], default_config_files=files)
    return load_singletons(conf, entries)


def refusal(catalogue: Catalogue, name: str) -> str:
    (found,) = {plugin.reason for plugin in catalogue.refused if plugin.name == name}
    return found


def test_a_plugin_is_loaded_with_the_values_of_its_options(tmp_path: Path) -> None:
    text = "[singleton_good]\nlimit = 7\n"
    catalogue = load(entry("good", f"{HERE}.plugins:Good"), text=text, directory=tmp_path)
    (plugin,) = catalogue.plugins
    assert (plugin.name, plugin.source, dict(plugin.values)) == ("good", f"{HERE}.plugins:Good", {"limit": 7})
    assert catalogue.refused == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plugins:FromTheFuture", "it is written for contract 99, this engine has 1"),
        ("plugins:NotAClass", "it is no subclass of engine.plugin.Singleton"),
        ("plugins:WithoutRun", "it does not define run()"),
        ("plugins:BlockingOnEachShard", "its scope is SHARD and its run() a plain `def`"),
        ("plugins:ClashingOptions", "its options in [singleton_bad] are not usable"),
        ("plugins:BadDefault", "its options in [singleton_bad] are not usable"),
        ("plugins:Missing", "it cannot be imported: AttributeError"),
        ("no_such_module:Missing", "it cannot be imported: ModuleNotFoundError"),
        ("exits_on_import:Any", "it cannot be imported: SystemExit: a module that ends the program"),
    ],
)
def test_a_bad_plugin_is_refused_with_the_reason_and_the_others_run(value: str, reason: str) -> None:
    catalogue = load(entry("bad", f"{HERE}.{value}"), entry("good", f"{HERE}.plugins:Good"))
    assert [plugin.name for plugin in catalogue.plugins] == ["good"]
    assert refusal(catalogue, "bad").startswith(reason)


def test_an_import_error_comes_with_its_traceback() -> None:
    (refused,) = load(entry("bad", f"{HERE}.exits_on_import:Any")).refused
    assert "exits_on_import.py" in refused.details


def test_a_name_claimed_twice_runs_neither() -> None:
    catalogue = load(entry("good", f"{HERE}.plugins:Good"), entry("good", f"{HERE}.plugins:OnEachEngine"))
    assert catalogue.plugins == ()
    assert refusal(catalogue, "good") == (
        f"the name is claimed 2 times: {HERE}.plugins:Good, {HERE}.plugins:OnEachEngine"
    )


def test_a_value_out_of_range_refuses_the_plugin_that_it_is_for(tmp_path: Path) -> None:
    text = "[singleton_good]\nlimit = 0\n"
    catalogue = load(
        entry("good", f"{HERE}.plugins:Good"),
        entry("other", f"{HERE}.plugins:Good"),
        text=text,
        directory=tmp_path,
    )
    assert [plugin.name for plugin in catalogue.plugins] == ["other"]
    assert "Should be greater than or equal to 1" in refusal(catalogue, "good")


def test_what_is_disabled_is_not_even_imported(tmp_path: Path) -> None:
    text = "[singletons]\ndisabled = exits\n"
    catalogue = load(entry("exits", f"{HERE}.exits_on_import:Any"), text=text, directory=tmp_path)
    assert refusal(catalogue, "exits") == "it is disabled by [singletons] disabled"


def test_an_allow_list_admits_only_what_it_names_and_reports_what_is_missing(tmp_path: Path) -> None:
    text = "[singletons]\nenabled = good,absent\n"
    catalogue = load(
        entry("good", f"{HERE}.plugins:Good"),
        entry("other", f"{HERE}.plugins:Good"),
        text=text,
        directory=tmp_path,
    )
    assert [plugin.name for plugin in catalogue.plugins] == ["good"]
    assert refusal(catalogue, "other") == "[singletons] enabled does not name it"
    assert refusal(catalogue, "absent") == "it is enabled, but no installed package has it"


@pytest.mark.parametrize("name", ["Bad", "a/b", "..", "with space", "x" * 64])
def test_a_name_that_cannot_be_a_node_and_a_section_is_refused(name: str) -> None:
    catalogue = load(entry(name, f"{HERE}.plugins:Good"))
    assert "lower-case letters" in refusal(catalogue, name)


def test_the_shipped_singleton_is_found_among_the_installed_ones() -> None:
    assert "event_retention" in {entry_point.name for entry_point in installed()}
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    assert EventRetention in {plugin.factory for plugin in load_singletons(conf).plugins}

import dataclasses
import subprocess
import sys

import pytest

from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.experiment import catalog

PLUGIN = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    """A family of the user's own."""

def build(config):
    return config
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a package of the user's own; the catalog forgets it after the test."""
    monkeypatch.setattr(catalog, "_plugins", set())
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_package"]:
        del sys.modules[name]


def test_names_are_the_modules_without_an_underscore():
    assert {"maml_trpo", "maml_ppo", "rl2_ppo"} <= set(catalog.names("agents"))
    assert {"metaworld", "point_navigation"} <= set(catalog.names("envs"))
    assert not [
        name for kind in ("agents", "envs") for name in catalog.names(kind) if name[0] < "a"
    ]


@pytest.mark.parametrize("package", ["agents", "envs"])
def test_every_module_says_what_the_catalog_needs(package):
    for name in catalog.names(package):
        module = catalog.load(package, name)
        assert callable(module.build)
        assert dataclasses.is_dataclass(module.Config)


def test_an_unknown_name_is_answered_with_the_nearest_and_all():
    with pytest.raises(UserError, match=r"no 'maml_trop' in agents/; did you mean 'maml_trpo'\?"):
        catalog.load("agents", "maml_trop")
    with pytest.raises(UserError, match=r"no 'zzz' in envs/; there are: .*point_navigation"):
        catalog.load("envs", "zzz")


@pytest.mark.parametrize("name", ["os.path", "own_package.family", "..envs.metaworld", "a.b.c"])
def test_a_name_never_reaches_outside_the_tree_unless_it_is_allowed(plugin, name):
    (plugin / "family.py").write_text(PLUGIN)
    with pytest.raises(UserError, match=f"outside of envs/; allow it with --plugin {name}"):
        catalog.load("envs", name)
    assert "own_package.family" not in sys.modules


@pytest.mark.parametrize("name", ["_maml", "__init__", "", "os", "agents/maml_trpo"])
def test_private_and_foreign_modules_are_not_agents(name):
    with pytest.raises(UserError, match=r"no '.*' in agents/"):
        catalog.load("agents", name)


def test_an_allowed_plugin_is_imported_and_keeps_its_whole_name(plugin):
    (plugin / "family.py").write_text(PLUGIN)
    catalog.allow_plugin("own_package.family")

    module = catalog.load("envs", "own_package.family")

    assert module.__name__ == "own_package.family"


def test_a_package_that_keeps_its_config_in_a_module_has_the_package_s_name(plugin):
    (plugin / "family").mkdir()
    (plugin / "family" / "__init__.py").write_text("from own_package.family.config import *")
    (plugin / "family" / "config.py").write_text(PLUGIN)
    catalog.allow_plugin("own_package.family")

    module = catalog.load("envs", "own_package.family")

    assert module.Config.__module__ == "own_package.family.config"


def test_plugins_that_cannot_be_used_say_why(plugin):
    for name in ("nowhere.family", "family"):
        with pytest.raises(UserError, match=r"cannot find the plugin .*PYTHONPATH"):
            catalog.allow_plugin(name)

    catalog.allow_plugin("own_package.missing")
    with pytest.raises(UserError, match=r"cannot find the plugin 'own_package.missing'"):
        catalog.load("envs", "own_package.missing")

    (plugin / "broken.py").write_text("import a_package_that_nobody_has")
    catalog.allow_plugin("own_package.broken")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        catalog.load("envs", "own_package.broken")  # a bug of theirs: they want the traceback

    (plugin / "empty.py").touch()
    catalog.allow_plugin("own_package.empty")
    with pytest.raises(UserError, match=r"own_package.empty has no Config; see CONTRIBUTING.md"):
        catalog.load("envs", "own_package.empty")


def test_another_package_named_agents_is_noticed(tmp_path, environment):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    outcome = subprocess.run(
        [sys.executable, "-m", "meta_rl", "train", "point_navigation_maml_trpo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 1
    assert "finds another package named 'agents' first" in outcome.stderr
    assert str(tmp_path) in outcome.stderr


def test_a_config_is_a_path_or_a_name(tmp_path):
    (tmp_path / "mine.yaml").touch()
    assert catalog.config_path(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"
    assert catalog.config_path("point_navigation_rl2_ppo").parent == catalog.ROOT / "configs"
    with pytest.raises(UserError, match=r"no config file '.*none.yaml'"):
        catalog.config_path(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match=r"did you mean 'point_navigation_rl2_ppo'\?"):
        catalog.config_path("point_navigation_rl2")


def test_nothing_is_suggested_for_a_word_that_resembles_nothing():
    assert did_you_mean("xyzzy", ["maml_trpo", "rl2_ppo"]) == ""
    assert did_you_mean("rl2_pp", ["maml_trpo", "rl2_ppo"]) == "did you mean 'rl2_ppo'? "

import math
import re

import pytest
import yaml

from meta_rl.core.errors import UserError
from meta_rl.experiment import strict_yaml
from meta_rl.experiment.config import load_experiment

DUPLICATE_KEYS = """\
agent: {name: maml_trpo, inner_lr: 0.05}
envs: {name: point_navigation, horizon: 10, test_goals: 2}
seed: 1
meta_iterations: 1
meta_batch_size: 2
copies: 2
tracking: {mode: "off"}
evaluation: {copies: 2}
# pasted from another file
seed: 0
agent:
  name: maml_trpo
"""
NUMBERS = """\
agent: {{name: maml_trpo}}
envs: {{name: point_navigation, horizon: 5, test_goals: 2}}
meta_iterations: 1
meta_batch_size: 2
copies: 2
evaluation: {{copies: 2}}
tracking: {{mode: "off"}}
seed: {}
"""


def refuses(content, *phrases, tmp_path):
    """Assert that a file gives one sentence with its name, the line and these phrases."""
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as told:
        strict_yaml.read(path)
    message = str(told.value)
    assert message.startswith(f"cannot read {path}")
    assert "\n" not in message
    for phrase in phrases:
        assert phrase in message


def test_a_config_whose_keys_repeat_is_not_trained(meta_rl, tmp_path):
    (tmp_path / "duplicate_keys.yaml").write_text(DUPLICATE_KEYS)

    meta_rl("train", "duplicate_keys.yaml").fails_with(
        "duplicate_keys.yaml, line 10: the key 'seed' is given twice, on line 3 and on line 10"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("010", "010 is not taken as a number, for YAML 1.1 takes the leading zero for base 8"),
        ("0b_", "0b_ is not taken as a number, for YAML 1.2 has no binary numbers"),
    ],
)
def test_a_config_with_a_number_of_two_meanings_is_not_trained(number, reason, meta_rl, tmp_path):
    (tmp_path / "seed.yaml").write_text(NUMBERS.format(number))

    meta_rl("train", "seed.yaml").fails_with(f"seed.yaml, line 8: {reason}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "key", "first", "second"),
    [
        ("a: {b: 1,\n  c: [{d: 1,\n d: 2}]}", "d", 2, 3),
        ("a:\n  - b: 1\n    c: 2\n    b: 1\n", "b", 2, 4),
        ("a: 1\n'a': 2", "a", 1, 2),
        ("1: a\n0x1: b", "0x1", 1, 2),
        ("1: a\ntrue: b", "true", 1, 2),  # one key to Python
        ("a: &x {p: 1, p: 2}\nb: *x", "p", 1, 1),
        ("a: &x {p: 1}\nb:\n  <<: *x\n  <<: *x", "<<", 3, 4),
    ],
)
def test_a_key_stands_once_in_its_mapping_at_any_depth(content, key, first, second, tmp_path):
    refuses(
        content,
        f"line {second}: the key '{key}' is given twice, on line {first} and on line {second}",
        tmp_path=tmp_path,
    )


def test_merge_keys_stay_and_what_is_written_beside_them_counts():
    data = strict_yaml.parse(
        "a: &a {p: 1}\nb: &b {<<: *a, q: 2}\nc: {<<: [*b, {p: 7, r: 8}], q: 3}\nd: {'<<': 4}", "x"
    )
    assert data == {"a": {"p": 1}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 3, "r": 8}} | {
        "d": {"<<": 4}
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("-3", -3), ("+3", 3), ("0o10", 8), ("0xFf", 255)),
        *(("1e-3", 0.001), ("1e3", 1000.0), ("-1.5E+2", -150.0), ("1.", 1.0), (".5", 0.5)),
        *((".inf", math.inf), ("-.INF", -math.inf), ("1.5e-05", 1.5e-5), ("01.5", 1.5)),
        *(("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None)),
        *((word, word) for word in ("yes", "no", "on", "off", "Off", "y", "=", "1.2.3", "12ab")),
        *((date, date) for date in ("2026-11-27", "2026-11-27 10:00:00", "1:90")),
        *((f"'{number}'", number) for number in ("010", "1_000", "1:30", "3")),
    ],
)
def test_a_plain_value_is_what_the_core_schema_of_yaml_1_2_says(text, value):
    (found,) = strict_yaml.parse(f"- {text}\n", "x")
    assert (type(found), found) == (type(value), value)


def test_a_value_that_is_no_number_stays_so():
    (found,) = strict_yaml.parse("- .nan", "x")
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        *(("010", "write 10, or 8 if base 8 is meant"), ("-017", "write -17, or -15 if base 8")),
        *(("08", "write 8"), ("00", "write 0"), ("01e5", "write 1e5")),
        *((text, "no binary numbers") for text in ("0b_", "0b101", "-0b1")),
        *((text, "no underscores") for text in ("1_000", "1_0.5", "0.1_5", "0x_1", "0o1_0", "1_")),
        *((text, "in sixties") for text in ("1:30", "190:20:30", "1:30.5", "-1:30")),
        *(("-0x10", "write -16"), ("+0o17", "write 15")),
    ],
)
def test_a_number_of_two_meanings_is_refused_with_the_reason(number, told, tmp_path):
    refuses(f"a: 1\nb: [{number}]", "line 2:", f"{number} is not taken", told, tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        ("a: [1\n", ["line 2", "expected ',' or ']'"]),
        ("a: 1\n\tb: 2", ["line 2", "found character '\\t'"]),
        ("a: 1\nb: *nowhere", ["line 2", "undefined alias 'nowhere'"]),
        ("a: 1\n---\nb: 2", ["line 2", "expected a single document"]),
        ("a: 1\nb: c: 2", ["line 2", "mapping values are not allowed here"]),
        ("a: 1\nb: 'c", ["line 2", "unexpected end of stream"]),
        ("a: 1\nb: \x07", ["line 2", "control character #x07"]),
        (b"a: 1\nb: \xff", ["line 2", "can't decode", "save the file as UTF-8"]),
        ("a: 1\n<<: 2", ["line 2", "expected a mapping or list of mappings for merging"]),
        ("a: 1\n? [b]\n: 2", ["line 2", "a key must be a single word"]),
        ("a: 1\nb: !!int c", ["line 2", "'c' is no whole number"]),
        ("a: 1\nb: !!float c", ["line 2", "'c' is no number"]),
        ("a: 1\nb: !!bool perhaps", ["line 2", "'perhaps' is no boolean"]),
        ("a: 1\nb: !!null c", ["line 2", "'c' is no null"]),
        ("a: 1\nb: !!int [c]", ["line 2", "a whole number is wanted, not a list"]),
        ("a: 1\nb: !!timestamp c", ["line 2", "timestamp is not allowed"]),
        ("a: 1\nb: !!set {c}", ["line 2", "set is not allowed"]),
        ("a: !!python/object/apply:os.system [ls]", ["line 1", "os.system is not allowed"]),
        ("a: 1\nb: 1e999", ["line 2", "1e999 is too large"]),
        ("a: 1\nb: " + "9" * 5000, ["line 2", "5000 digits is too long"]),
        ("a: 1\nb: " + "[" * 5000, ["line 2", "too many nested brackets"]),
    ],
)
def test_whatever_is_wrong_is_one_sentence_with_file_and_line(content, phrases, tmp_path):
    refuses(content, *phrases, tmp_path=tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UserError, match=f"cannot read {re.escape(str(tmp_path))}: Is a directory"):
        strict_yaml.read(tmp_path)


def test_what_is_written_is_read_back_by_us_and_by_readers_of_yaml_1_1():
    words = ["1e-3", "08", "0o10", "off", "yes", "1_0", "1:30", "2026-11-27", "true", "null", ""]
    words += ["~", "<<", "=", "é\nx", "a: b", "#x", " 1", "-0x1", ".5", "plain"]
    data = {"words": words, "values": [1e-5, 1e300, math.inf, 0.1, 3, -2, True, None, {"a": [1]}]}

    text = strict_yaml.write(data)

    assert strict_yaml.parse(text, "x") == data
    assert yaml.safe_load(text) == data


def test_a_bare_off_switches_tracking_off_and_a_bare_exponent_is_a_float(tmp_path):
    path = tmp_path / "x.yaml"
    agent = "agent: {name: maml_ppo, inner_lr: 1e-3}"
    path.write_text(f"{agent}\nenvs: {{name: point_navigation}}\ntracking: {{mode: off}}")

    experiment = load_experiment(str(path))

    assert (experiment.agent.inner_lr, experiment.tracking.mode) == (0.001, "off")

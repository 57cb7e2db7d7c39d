"""Settings: each from where it is said first, and what is wrong named with its source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from loraloom.errors import SettingsError
from loraloom.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "loraloom.toml"


def test_flags_go_before_the_environment_before_the_file_before_the_defaults(file: Path) -> None:
    file.write_text("port = 1\nmax_queue = 1\nmax_batch = 1")
    variables = {"LORALOOM_PORT": "2", "LORALOOM_MAX_QUEUE": "2"}
    found = load({"port": "3", "max_queue": None}, file, variables)
    assert (found.port, found.max_queue, found.max_batch) == (3, 2, 1)
    assert found.timeout == Settings().timeout == 600


def test_every_setting_can_be_said_in_every_source(file: Path) -> None:
    """Values that are not the defaults, as texts and as TOML has them."""
    said: dict[str, tuple[str, str]] = {
        **dict.fromkeys(("model", "host", "pipeline", "hub", "device", "dtype"), ("x", "'x'")),
        **dict.fromkeys(("api_key_file", "admin_key_file", "state"), ("/a", "'/a'")),
        **dict.fromkeys(("allowed_host", "lora", "default_lora"), ("a 'b c'", "['a', 'b c']")),
        "adapter_root": ("/a '/b c'", "['/a', '/b c']"),
        **dict.fromkeys(("allow_hub", "offline", "resume"), ("yes", "true")),
        "warmup": ("no", "false"),
        **dict.fromkeys(("port", "max_queue", "max_batch", "max_work", "max_pixels"), ("7", "7")),
        **dict.fromkeys(
            ("device_budget", "host_budget", "max_upload", "keep_bytes"), ("1.5G", "1610612736")
        ),
        **dict.fromkeys(("timeout", "keep_for", "patience"), ("2m", "120.0")),
        "residency": ("auto", "'auto'"),
        "offload": ("in turn", "'in turn'"),
        "policy": ("fused", "'fused'"),
        "log_format": ("json", "'json'"),
        "log_level": ("debug", "'debug'"),
    }
    assert said.keys() == Settings.model_fields.keys()
    file.write_text("\n".join(f"{name} = {toml}" for name, (_, toml) in said.items()))
    texts = {name: text for name, (text, _) in said.items()}
    variables = {f"LORALOOM_{name.upper()}": text for name, text in texts.items()}
    by_flags = load(texts, None, {})
    assert by_flags == load({}, None, variables) == load({}, file, {})
    usual = Settings()
    assert not [name for name in said if getattr(by_flags, name) == getattr(usual, name)]


def test_several_values_in_one_variable_are_words_or_json() -> None:
    words = load({}, None, {"LORALOOM_LORA": "neon=/a/b.safetensors:0.5 'my style=/c d'"})
    json = load({}, None, {"LORALOOM_LORA": '["neon=/a/b.safetensors:0.5", "my style=/c d"]'})
    assert words.lora == json.lora == ("neon=/a/b.safetensors:0.5", "my style=/c d")


def test_an_empty_variable_says_nothing() -> None:
    assert load({}, None, {"LORALOOM_PORT": "", "LORALOOM_CONFIG": ""}) == Settings()


def test_the_environment_may_name_the_file_and_a_flag_another(file: Path) -> None:
    file.write_text("port = 1")
    other = file.with_name("other.toml")
    other.write_text("port = 2")
    assert load({}, None, {"LORALOOM_CONFIG": str(file)}).port == 1
    assert load({}, other, {"LORALOOM_CONFIG": str(file)}).port == 2


def test_variables_of_others_count_where_ours_say_nothing() -> None:
    theirs = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://mirror", "XDG_STATE_HOME": "/s"}
    found = load({}, None, theirs)
    assert (found.offline, found.hub, found.state) == (True, "https://mirror", Path("/s/loraloom"))
    ours = {"LORALOOM_OFFLINE": "no", "LORALOOM_HUB": "https://h", "LORALOOM_STATE": "/t"}
    found = load({}, None, theirs | ours)
    assert (found.offline, found.hub, found.state) == (False, "https://h", Path("/t"))
    assert load({}, None, {"HF_HUB_OFFLINE": "0"}).offline is False


def test_a_home_is_found_in_every_path() -> None:
    found = load({"state": "~/s", "api_key_file": "~/k", "adapter_root": ["~/a", "/b"]}, None, {})
    assert (found.state, found.api_key_file) == (Path.home() / "s", Path.home() / "k")
    assert found.adapter_root == (Path.home() / "a", Path("/b"))
    assert Settings().state == Path.home() / ".local/state/loraloom"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("port", "x", "want a valid integer"),
        ("port", "65536", "want less than or equal to 65535"),
        ("max_queue", "0", "want greater than or equal to 1"),
        ("allowed_host", "a.example,b.example", "want names of hosts"),
        ("allowed_host", "https://a.example/", "want names of hosts"),
        ("timeout", "0", "want greater than 0"),
        ("timeout", "soon", "want seconds, or a number with s, m, h or d"),
        ("timeout", "nan", "want seconds"),
        ("keep_bytes", "8Q", "want bytes with a unit, e.g. 80G"),
        ("keep_bytes", "-1", "want bytes"),
        ("policy", "molten", "want 'live', 'fused' or 'auto'"),
        ("warmup", "perhaps", "want a valid boolean"),
        ("lora", "'a", "want words as a shell reads them, or a JSON list"),
        ("lora", "[1]", "want a valid string"),
    ],
)
def test_what_cannot_be_is_refused_with_its_source_and_value(
    name: str, text: str, says: str, file: Path
) -> None:
    variable, flag = f"LORALOOM_{name.upper()}", f"--{name.replace('_', '-')}"
    file.write_text(f"{name} = {text!r}" if "'" not in text else f'{name} = "{text}"')
    calls: dict[str, Callable[[], Settings]] = {
        flag: lambda: load({name: text}, None, {}),
        variable: lambda: load({}, None, {variable: text}),
        f"{name} in {file}": lambda: load({}, file, {}),
    }
    for where, call in calls.items():
        with pytest.raises(SettingsError) as caught:
            call()
        said = str(caught.value)
        assert said.startswith(f"{where} is ")
        assert text.strip("'") in said
        assert says in said


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"^--port is 'x', .*; LORALOOM_MAX_BATCH is '0', "):
        load({"port": "x"}, None, {"LORALOOM_MAX_BATCH": "0"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = true", "port in FILE is True, want no truth value"),
        ("timeout = false", "timeout in FILE is False, want no truth value"),
        ("timeout = inf", "timeout in FILE is inf, want a finite number"),
        ("lora = [3]", "lora in FILE is [3], want a valid string"),
        ("lora = true", "lora in FILE is True"),
        ("api_key_file = ''", "api_key_file in FILE is '', want a path"),
        ("prot = 1", "there is no setting prot in FILE; did you mean 'port'"),
        ("max-queue = 1", "there is no setting max-queue in FILE; did you mean 'max_queue'"),
        ("[server]\nport = 1", "there is no setting server in FILE"),
        ("port =", "FILE is no TOML file: "),
        ("\udcff", "FILE is no TOML file: "),
    ],
)
def test_a_file_is_refused_by_what_is_wrong_in_it(text: str, says: str, file: Path) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError) as caught:
        load({}, file, {})
    assert says.replace("FILE", str(file)) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load({}, tmp_path / "none.toml", {})
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load({}, None, {"LORALOOM_CONFIG": str(tmp_path / "none.toml")})


def test_an_unknown_variable_of_ours_is_refused_with_near_ones() -> None:
    with pytest.raises(
        SettingsError, match="there is no setting LORALOOM_PROT; did you mean 'LORA"
    ):
        load({}, None, {"LORALOOM_PROT": "1"})
    assert load({}, None, {"LORALOO_PROT": "1", "PORT": "2"}) == Settings()


def test_settings_made_by_hand_read_nothing_and_do_not_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORALOOM_PORT", "1")
    settings = Settings()
    assert settings.port == 8000
    assert load({}).port == 1
    with pytest.raises(ValidationError):
        settings.port = 2
    unknown: dict[str, Any] = {"prot": 1}
    with pytest.raises(ValidationError):
        Settings(**unknown)


def test_settings_are_read_without_torch() -> None:
    code = "import sys; from loraloom.settings import load; load({}); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_a_relative_state_folder_is_below_the_folder_of_the_start() -> None:
    """Else an upload is not known again as what was published, and is removed."""
    assert load({"state": "here"}, None, {}).state == Path.cwd() / "here"

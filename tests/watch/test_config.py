"""watch.toml: each mistake is named, with the nearest valid key."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from edgecnn.errors import RecipeError
from edgecnn.watch.config import Config, load, parse, secret

GOOD = """
device = "yard"

[model]
path = "fire.tflite"

[source]
uri = "rtsp://cam/1"
frames_per_second = 10

[[alarm]]
label = "fire"
on_score = 0.8
include = [[[0, 0], [1, 0], [1, 0.5], [0, 0.5]]]

[[alarm.hours]]
from_hour = 22
to_hour = 6
on_score = 0.9
off_score = 0.5

[journal]
folder = "state"

[mqtt]
host = "broker"
password_file = "secrets/mqtt"

[clips]

[web]
host = "0.0.0.0"
token_env = "EDGECNN_TOKEN"
"""


def test_a_whole_file_is_read_and_its_paths_count_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "watch.toml"
    path.write_text(GOOD)

    found = load(path)

    assert found.model.path == tmp_path / "fire.tflite"
    assert found.journal.folder == tmp_path / "state"
    assert found.mqtt is not None
    assert found.mqtt.password_file == tmp_path / "secrets/mqtt"
    assert found.alarm[0].include == (((0, 0), (1, 0), (1, 0.5), (0, 0.5)),)
    assert found.alarm[0].at_hour(23).on_score == 0.9
    assert (found.webhook, found.gpio) == (None, None)


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("clips/fire.mp4", "/srv/clips/fire.mp4"),
        ("frames", "/srv/frames"),
        ("/clips/fire.mp4", "/clips/fire.mp4"),
        ("replay:old/fire.mp4", "replay:/srv/old/fire.mp4"),
        ("replay:0192-4fa3", "replay:0192-4fa3"),
        ("picamera:1", "picamera:1"),
        ("0", "0"),
        ("/dev/video0", "/dev/video0"),
        ("http://camera/stream", "http://camera/stream"),
    ],
)
def test_the_path_of_a_clip_counts_from_the_folder_of_the_file_and_a_camera_stays_what_it_is(
    written: str, uri: str
) -> None:
    assert parse(GOOD.replace("rtsp://cam/1", written), Path("/srv")).source.uri == uri


def test_what_is_left_out_is_as_described() -> None:
    found = parse(GOOD.partition("[journal]")[0], Path("/etc/edgecnn"))

    assert (found.web.host, found.web.port, found.mqtt, found.clips) == ("127.0.0.1", 8080, None, None)
    assert found.model.path == Path("/etc/edgecnn/fire.tflite")
    assert found.journal.folder == Path.home() / ".local/state/edgecnn"


@pytest.mark.parametrize(
    ("old", "new", "fix"),
    [
        ("device =", "devise =", "Did you mean 'device'?"),
        ("on_score = 0.8", "onscore = 0.8", "Did you mean 'alarm[0].on_score'?"),
        ("from_hour", "from_our", "Did you mean 'alarm[0].hours[0].from_hour'?"),
        ("[mqtt]", "[mqtt_]", "Did you mean 'mqtt'?"),
        ('host = "broker"', 'hots = "broker"', "Did you mean 'mqtt.host'?"),
        ("token_env", "token", "Did you mean 'web.token_env'?"),
        ("uri =", "something_else =", "Use one of: uri, width_px"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_valid_one(old: str, new: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(GOOD.replace(old, new, 1))

    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"yard"', '"the/yard"', "part of a topic"),
        ('"yard"', "7", "device"),
        ("on_score = 0.8", "on_score = 0.3", "0 < off_score < on_score <= 1"),
        ("to_hour = 6", "to_hour = 26", "between 0 and 24"),
        ("frames_per_second = 10", "frames_per_second = -1", "cannot be negative"),
        ("[clips]", "[clips]\nring_mb = 0", "must be above 0"),
        ("[clips]", "[clips]\nring_mb = nan", "must be above 0"),
        ('token_env = "EDGECNN_TOKEN"', "", "open to everyone"),
        ("[[alarm]]", '[[alarm]]\nlabel = "fire"\n[[alarm]]', "two [[alarm]] for 'fire'"),
        ("[1, 0.5], [0, 0.5]", "[1, 5]", "between 0 and 1"),
        ("[model]", "[model", "not valid TOML"),
        ("frames_per_second", 'format = "RGB565"\nframes_per_second', "source.format"),
        ("frames_per_second = 10", "stalled_after_s = inf", "'source.stalled_after_s' is a finite number"),
        ('host = "broker"', 'host = ""', "'mqtt.host' is empty"),
        ('host = "broker"', 'host = "broker"\nport = 70000', "'mqtt.port' goes up to 65535"),
        ('host = "broker"', 'host = "broker"\ntopic_prefix = "home/#"', "'mqtt.topic_prefix' begins every"),
        ('host = "broker"', 'host = "broker"\ntopic_prefix = "+/cnn"', "'mqtt.topic_prefix' begins every"),
        ("rtsp://cam/1", "~no-such-user/x.mp4", "a home folder that is not known here"),
        ("secrets/mqtt", "~no-such-user/mqtt", "a home folder that is not known here"),
        ("rtsp://cam/1", "rtsp://[cam/1", "'source.uri' is no address"),
        ("[clips]", '[clips]\n[webhook]\nurl = "https://host:443a/x"', "'webhook.url' is no address"),
    ],
)
def test_a_value_that_cannot_be_is_named(old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(GOOD.replace(old, new, 1))

    assert said in caught.value.message


@pytest.mark.parametrize("section", ['uri = "rtsp://cam/1"\n', 'device = "yard"\n'])
def test_what_must_be_there_and_is_not_is_named(section: str) -> None:
    with pytest.raises(RecipeError, match="missing required field"):
        parse(GOOD.replace(section, "", 1))


def test_a_file_without_any_alarm_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"There is no \[\[alarm\]\]"):
        parse("alarm = []\n" + GOOD.partition("[[alarm]]")[0])


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "bytes.toml")


def test_a_secret_comes_from_the_environment_or_from_a_file_and_never_from_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(" from-file\n")
    monkeypatch.setenv("TOKEN", "from-environment")
    monkeypatch.setenv("EMPTY", "")

    assert secret("TOKEN", file, "token") == "from-environment"
    assert secret("", file, "token") == "from-file"
    assert secret("", None, "token") is None
    with pytest.raises(RecipeError, match="holds nothing"):
        secret("EMPTY", None, "token")
    with pytest.raises(RecipeError, match="cannot be read"):
        secret("", tmp_path / "nothing", "token")


def test_the_manual_names_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "watch.md").read_text(encoding="utf-8")

    def keys(kind: type) -> typing.Iterator[str]:
        for name, hint in typing.get_type_hints(kind).items():
            yield name
            for inner in (hint, *typing.get_args(hint)):
                if dataclasses.is_dataclass(inner):
                    yield from keys(inner)  # type: ignore[arg-type]

    assert sorted({key for key in keys(Config) if f"`{key}`" not in page}) == []

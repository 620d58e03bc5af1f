from types import SimpleNamespace

import pytest

from rcan.data.measurements import MeasurementCache


def test_files_of_the_user_are_never_forgotten(tmp_path):
    for name in ("mine.npy", "notes.json", "0123456789abcdef.json"):
        (tmp_path / name).write_text("mine")
    cache = MeasurementCache(tmp_path)
    cache.put("0" * 24, {"value": 1})
    cache.remove_unused()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0123456789abcdef.json",
        "mine.npy",
        "notes.json",
    ]


def test_keys_are_those_of_version_0_1_0(tmp_path):
    facts = {
        "path": "/data/a.tif",
        "size": 700,
        "modified": 1795700800823119167,
        "axes": ["ZYX", "ZYXC"],
        "bounds": {"Z": (0, 6), "Y": (0, 16), "X": (0, 20)},
    }
    volume = SimpleNamespace(signature=lambda: facts)
    key = MeasurementCache(tmp_path).key([volume, volume], percentiles=(2, 99.9))
    assert key == "3fd28cf5255e3fd93e34678b"  # found with that version


def test_measurements_of_files_that_are_no_longer_used_are_forgotten(tmp_path):
    for keys in (["a", "b"], ["b"]):
        cache = MeasurementCache(tmp_path)
        for key in keys:
            cache.put(cache.key([], name=key), {"value": key})
    cache.remove_unused()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"other": 1}', '{"values": {"value": 2}, "checksum": "0123456789abcdef"}']
)
def test_damaged_measurement_is_made_again(tmp_path, text):
    cache = MeasurementCache(tmp_path)
    key = cache.key([], name="a")
    cache.put(key, {"value": 1})
    assert cache.get(key, ["value"]) == {"value": 1}
    (tmp_path / f"{key}.json").write_text(text)
    assert cache.get(key, ["value"]) is None

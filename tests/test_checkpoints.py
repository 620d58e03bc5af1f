import json
import os

import numpy as np
import pytest

from rcan.run_folder.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from rcan.run_folder.state import RunState


def state_of(epoch):
    return RunState(epoch=epoch, epochs=9)


def save(run_dir, epoch, *arrays):
    save_checkpoint(run_dir, Checkpoint(arrays, state_of(epoch)))


def folders(run_dir):
    return sorted((run_dir / "checkpoints").iterdir())


def test_checkpoint_is_loaded_as_it_was_saved(tmp_path, rng):
    arrays = [rng.normal(size=(2, 3)).astype(np.float32), np.array(7, np.int64)]
    row = {"epoch": 1, "loss": 0.1 + 0.2, "seconds": 3.0}
    state = RunState(
        epoch=1, epochs=2, patches_done=3, sums={"loss": 0.1 + 0.2, "patches": 3.0}, seconds=2.0, history=[row]
    )
    save_checkpoint(tmp_path, Checkpoint(arrays, state))
    found = load_checkpoint(tmp_path)
    assert repr(found.state) == repr(state)  # with whole numbers that stay such
    for one, other in zip(found.variables, arrays, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for number in range(4):
        save(tmp_path, number)
    assert [path.name for path in folders(tmp_path)] == ["epoch_000002_000000000", "epoch_000003_000000000"]


def test_checkpoint_brings_back_the_best_network_of_its_time(tmp_path):
    (tmp_path / "best.keras").write_text("of epoch 1")
    save(tmp_path, 1)
    replacement = tmp_path / "new"
    replacement.write_text("of epoch 2")
    os.replace(replacement, tmp_path / "best.keras")
    load_checkpoint(tmp_path)
    assert (tmp_path / "best.keras").read_text() == "of epoch 1"


@pytest.mark.parametrize("name", ["variables.npz", "state.json"])
@pytest.mark.parametrize("keep", [0, 20])
def test_checkpoint_cut_short_is_passed_over(tmp_path, name, keep):
    for number in (1, 2):
        save(tmp_path, number, np.arange(100))
    path = folders(tmp_path)[-1] / name
    path.write_bytes(path.read_bytes()[:keep] if name != "state.json" else b"{")
    with pytest.warns(UserWarning, match="epoch_000002_000000000 is damaged and passed over"):
        assert load_checkpoint(tmp_path).state == state_of(1)
    assert load_checkpoint(tmp_path).state == state_of(1)  # nothing to pass over any more


def test_checkpoint_whose_state_lacks_a_key_is_passed_over(tmp_path):
    for number in (1, 2):
        save(tmp_path, number)
    (folders(tmp_path)[-1] / "state.json").write_text('{"epoch": 2}')
    with pytest.warns(UserWarning, match=r"is damaged and passed over .*state\.json: epochs is missing"):
        assert load_checkpoint(tmp_path).state == state_of(1)


@pytest.mark.parametrize(
    "changed",
    [
        {"history": [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "lost": 1.0}]},
        {"sums": {"loss": 1.0}},
        {"patches_done": -1},
        {"epoch": -2},
    ],
)
def test_checkpoint_whose_state_contradicts_itself_is_passed_over(tmp_path, changed):
    for number in (1, 2):
        save(tmp_path, number)
    (folders(tmp_path)[-1] / "state.json").write_text(json.dumps({**state_of(2).model_dump(), **changed}))
    with pytest.warns(UserWarning, match=rf"is damaged and passed over .*state\.json: .*{next(iter(changed))}"):
        assert load_checkpoint(tmp_path).state == state_of(1)


def test_without_an_undamaged_checkpoint_it_is_an_error_with_a_way_out(tmp_path):
    save(tmp_path, 1)
    (folders(tmp_path)[0] / "state.json").unlink()
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match=r"none of its 1 checkpoints is whole.*--overwrite"),
    ):
        load_checkpoint(tmp_path)


def test_full_disk_is_one_error_and_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        save(tmp_path, 2, np.arange(3))
    assert [path.name for path in folders(tmp_path)] == ["epoch_000001_000000000"]
    assert load_checkpoint(tmp_path).state == state_of(1)


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    save(tmp_path, 1)
    names = "checkpoints/.epoch_000002_000000000.partial-7", ".best.partial-7.keras"
    partials = [tmp_path / name for name in names]
    partials[0].mkdir()
    partials[1].write_text("half")
    load_checkpoint(tmp_path)
    assert not any(partial.exists() for partial in partials)

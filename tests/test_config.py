import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from rcan.config import Config, ImagePair, load_config, parse_loss
from rcan.failures import UsageError

LOSS_RULE = "must be a sum of mae, mse, charbonnier, ssim, each once, with weights above 0 if any"
LOSS_RULE += ", such as mae+0.2*ssim."

# The config file of the published program: key, default, a value beyond its range or of another type. A default
# of None is found out from the data.
PUBLISHED = [
    ("training_data_dir", None, "data"),
    ("validation_data_dir", None, "data"),
    ("training_image_pairs", [], {"raw": "a.tif", "gt": "b.tif"}),
    ("validation_image_pairs", [], "a.tif"),
    ("input_shape", None, [0, 256, 256]),
    ("raw_data_format", None, "ZYQ"),
    ("gt_data_format", None, "ZY"),
    ("num_channels", 32, 0),
    ("num_residual_blocks", 3, 0),
    ("num_residual_groups", 5, 0),
    ("channel_reduction", 8, 0),
    ("epochs", 300, 0),
    ("steps_per_epoch", 256, 0),
    ("data_augmentation", True, 1),
    ("intensity_threshold", 0.25, "high"),
    ("area_ratio_threshold", 0.5, 1.01),
    ("initial_learning_rate", 1e-4, 0.99e-6),
    ("loss", "mae", "huber"),
    ("metrics", ["psnr"], ["mae"]),
]
OLD_FILE = {
    "training_data_dir": {"raw": "train/raw", "gt": "train/gt"},
    "validation_data_dir": {"raw": "/valid/raw", "gt": "/valid/gt"},
    "training_image_pairs": [{"raw": "a.tif", "gt": "b.tif"}],
    "validation_image_pairs": [{"raw": "c.tif", "gt": "d.tif"}],
    "input_shape": [8, 128, 128],
    "raw_data_format": "ZYX",
    "gt_data_format": "CZYX",
    "num_channels": 16,
    "num_residual_blocks": 2,
    "num_residual_groups": 4,
    "channel_reduction": 4,
    "epochs": 100,
    "steps_per_epoch": 64,
    "data_augmentation": False,
    "intensity_threshold": 0.1,
    "area_ratio_threshold": 0.2,
    "initial_learning_rate": 0.001,
    "loss": "mse",
    "metrics": ["psnr", "ssim"],
}
DATA = {"training_data_dir": {"raw": "raw", "gt": "gt"}}


@pytest.fixture
def write_config(tmp_path):
    """Write keys as a config file, or text as it is: `write_config(epochs=3)`."""

    def write(text=None, **keys):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**DATA, **keys}) if text is None else text, encoding="utf-8")
        return path

    return write


# Keys, defaults and ranges


@pytest.mark.parametrize(("key", "default"), [row[:2] for row in PUBLISHED if row[0] not in DATA])
def test_a_key_that_is_left_out_has_its_published_default(write_config, key, default):
    config = load_config(write_config())
    assert getattr(config, {"input_shape": "patch_shape"}.get(key, key)) == default


@pytest.mark.parametrize(("key", "wrong"), [(key, wrong) for key, _, wrong in PUBLISHED])
def test_a_wrong_value_is_refused_with_file_key_and_value(write_config, key, wrong):
    path = write_config(**{key: wrong})
    with pytest.raises(ValueError, match="must") as refused:
        load_config(path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{path}: {key}")
    assert not isinstance(refused.value, UsageError)


@pytest.mark.parametrize("key", [key for key, default, _ in PUBLISHED if isinstance(default, int | float)])
@pytest.mark.parametrize("wrong", ["3", None, [3], float("nan"), float("inf")])
def test_a_number_is_a_finite_number(write_config, key, wrong):
    with pytest.raises(ValueError, match=rf"config\.json: {key} is .*: must be"):
        load_config(write_config(**{key: wrong}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_shape", [1, 1, 1]),
        ("input_shape", [1, 1]),
        ("num_channels", 1),
        ("epochs", 1),
        ("intensity_threshold", -1),
        ("intensity_threshold", 0),
        ("area_ratio_threshold", 0),
        ("area_ratio_threshold", 1),
        ("initial_learning_rate", 1e-6),
        ("initial_learning_rate", 1),
        ("metrics", []),
        ("metrics", ["ssim", "psnr"]),
        ("raw_data_format", "TCZYX"),
        ("raw_data_format", "YXC"),
    ],
)
def test_the_ends_of_a_range_belong_to_it(write_config, key, value):
    config = load_config(write_config(**{key: value}))
    key = {"input_shape": "patch_shape"}.get(key, key)
    assert config.model_dump(mode="json")[key] == value


@pytest.mark.parametrize("shape", [[16], [1, 2, 3, 4], [], [16.5, 16], ["16", 16], 16, [-1, 2]])
def test_a_patch_shape_is_two_or_three_whole_numbers(write_config, shape):
    with pytest.raises(ValueError, match=r"config\.json: patch_shape.*: must"):
        load_config(write_config(patch_shape=shape))


@pytest.mark.parametrize("percentiles", [[2, 2], [99, 2], [-1, 50], [50, 100.1]])
def test_percentiles_rise_within_0_and_100(write_config, percentiles):
    with pytest.raises(ValueError, match=r"percentiles is \[.*\]: must be 0 <= low < high <= 100\."):
        load_config(write_config(percentiles=percentiles))


def test_a_wrong_part_of_a_value_is_named_by_its_place(write_config):
    path = write_config(training_image_pairs=[{"raw": "a.tif", "gt": "b.tif"}, {"raw": 1}])
    with pytest.raises(ValueError, match="must be text") as refused:
        load_config(path)
    assert str(refused.value).splitlines() == [
        f"{path}: training_image_pairs.1.raw is 1: must be text.",
        f"{path}: training_image_pairs.1.gt is missing.",
    ]


def test_a_run_needs_training_data(write_config):
    with pytest.raises(ValueError, match=r"config\.json: training_data_dir is missing: .*training_image_pairs"):
        load_config(write_config("{}"))


def test_pairs_alone_are_training_data_too(write_config):
    path = write_config(json.dumps({"training_image_pairs": [{"raw": "a.tif", "gt": "b.tif"}]}))
    assert len(load_config(path).training_image_pairs) == 1


@pytest.mark.parametrize(
    ("key", "known"),
    [("epoch", "epochs"), ("steps", "steps_per_epoch"), ("los", "loss"), ("metric", "metrics")],
)
def test_an_unknown_key_names_the_nearest(write_config, key, known):
    with pytest.raises(ValueError, match=rf"config\.json: {key} is not a known key\. Did you mean {known}\?"):
        load_config(write_config(**{key: 3}))


def test_all_wrong_keys_are_told_at_once(write_config):
    path = write_config(epoch=3, epochs=0, input_shape=[16], loss="huber", num_channels="32")
    with pytest.raises(ValueError, match="epoch") as refused:
        load_config(path)
    assert sorted(str(refused.value).splitlines()) == [
        f"{path}: epoch is not a known key. Did you mean epochs?",
        f"{path}: epochs is 0: must be greater than or equal to 1.",
        f"{path}: input_shape is [16]: must have at least 2 values.",
        f'{path}: loss is "huber": {LOSS_RULE}',
        f'{path}: num_channels is "32": must be a whole number.',
    ]


def test_a_config_is_never_changed(write_config):
    config = load_config(write_config())
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 3


# The file


def test_a_published_file_runs_unchanged(write_config, tmp_path):
    config = load_config(write_config(json.dumps(OLD_FILE)))
    assert config == Config(
        training_data_dir=ImagePair(raw=tmp_path / "train/raw", gt=tmp_path / "train/gt"),
        validation_data_dir=ImagePair(raw=Path("/valid/raw"), gt=Path("/valid/gt")),
        training_image_pairs=[ImagePair(raw=tmp_path / "a.tif", gt=tmp_path / "b.tif")],
        validation_image_pairs=[ImagePair(raw=tmp_path / "c.tif", gt=tmp_path / "d.tif")],
        patch_shape=(8, 128, 128),
        raw_data_format="ZYX",
        gt_data_format="CZYX",
        num_channels=16,
        num_residual_blocks=2,
        num_residual_groups=4,
        channel_reduction=4,
        epochs=100,
        steps_per_epoch=64,
        data_augmentation=False,
        intensity_threshold=0.1,
        area_ratio_threshold=0.2,
        initial_learning_rate=0.001,
        loss="mse",
        metrics=["psnr", "ssim"],
    )


def test_an_old_and_a_new_name_of_one_key_are_refused_together(write_config):
    with pytest.raises(ValueError, match=r"config\.json: input_shape is the old name of patch_shape"):
        load_config(write_config(input_shape=[8, 8, 8], patch_shape=[8, 8, 8]))


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [('{"epochs": 3,\n "loss": mae}', 2, 10), ("", 1, 1), ('{"epochs": 3', 1, 13), ("{'epochs': 3}", 1, 2)],
)
def test_what_is_not_json_is_told_with_line_and_column(write_config, text, line, column):
    with pytest.raises(ValueError, match=rf"config\.json: line {line}, column {column}: .*the file must be JSON"):
        load_config(write_config(text))


@pytest.mark.parametrize(("text", "kind"), [("[1]", "list"), ("3", "int"), ('"epochs"', "str"), ("null", "NoneType")])
def test_a_file_is_one_json_object(write_config, text, kind):
    with pytest.raises(ValueError, match=rf"config\.json: holds a {kind}; it must be one JSON object"):
        load_config(write_config(text))


@pytest.mark.parametrize(
    "text", ['{"epochs": 3, "epochs": 4}', '{"training_data_dir": {"raw": "a", "gt": "b", "raw": "c"}}']
)
def test_a_key_is_given_once(write_config, text):
    with pytest.raises(ValueError, match=r"config\.json: (epochs|raw) is given 2 times; keep one\."):
        load_config(write_config(text))


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**DATA, "epochs": 3}), encoding="utf-8-sig")
    assert load_config(path).epochs == 3


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\x93\xff\x00{")
    with pytest.raises(ValueError, match=r"config\.json: not a text file in UTF-8"):
        load_config(path)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="does not exist or is not a file"):
        load_config(tmp_path / name)


def test_a_resolved_config_loads_again_equal(write_config, tmp_path):
    config = load_config(write_config(json.dumps(OLD_FILE)), {"epochs": 3, "output_dir": "run"})
    again = tmp_path / "elsewhere" / "config.json"
    again.parent.mkdir()
    again.write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(again) == config


# Paths and flags


def test_relative_paths_of_a_file_start_from_its_folder(write_config, tmp_path):
    config = load_config(write_config(output_dir="runs/one", test_data_dir={"raw": "../raw", "gt": "/gt"}))
    assert config.training_data_dir.raw == tmp_path / "raw"
    assert config.output_dir == tmp_path / "runs/one"
    assert config.test_data_dir == ImagePair(raw=tmp_path / "../raw", gt=Path("/gt"))


def test_relative_paths_of_flags_start_from_the_current_folder(write_config, tmp_path, monkeypatch):
    path = write_config(output_dir="run")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    overrides = {"output_dir": "run", "validation_data_dir": {"raw": "raw", "gt": "gt"}}
    config = load_config(path, overrides)
    assert config.output_dir == tmp_path / "here/run"
    assert config.validation_data_dir.raw == tmp_path / "here/raw"
    assert config.training_data_dir.raw == tmp_path / "raw"


def test_overrides_of_a_python_caller_may_be_paths_and_tuples(write_config, tmp_path, monkeypatch):
    path = write_config()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(path, {"output_dir": Path("run"), "patch_shape": (4, 8, 8)})
    assert (config.output_dir, config.patch_shape) == (tmp_path / "here/run", (4, 8, 8))


def test_the_home_folder_may_be_written_as_a_tilde(write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_config(write_config(output_dir="~/run")).output_dir == tmp_path / "home/run"


def test_a_config_in_the_current_folder_needs_no_folder_in_its_name(write_config, tmp_path, monkeypatch):
    write_config()
    monkeypatch.chdir(tmp_path)
    assert load_config("config.json").training_data_dir.raw == tmp_path / "raw"


def test_flags_count_more_than_the_file(write_config):
    config = load_config(write_config(epochs=300, loss="mae"), {"epochs": 3})
    assert (config.epochs, config.loss) == (3, "mae")


def test_a_flag_replaces_the_old_name_of_its_key(write_config):
    assert load_config(write_config(input_shape=[8, 8, 8]), {"patch_shape": [4, 4, 4]}).patch_shape == (
        4,
        4,
        4,
    )


def test_a_wrong_flag_is_not_blamed_on_the_file(write_config):
    path = write_config(loss="huber")
    with pytest.raises(UsageError) as refused:
        load_config(path, {"epochs": 0})
    assert str(refused.value).splitlines() == [
        "--epochs is 0: must be greater than or equal to 1.",
        f'{path}: loss is "huber": {LOSS_RULE}',
    ]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("mae", {"mae": 1}),
        ("mae+0.2*ssim", {"mae": 1, "ssim": 0.2}),
        (" 2 * mse + 1e-1*charbonnier", {"mse": 2, "charbonnier": 0.1}),
    ],
)
def test_loss_is_a_weighted_sum(text, weights):
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    "text", ["", "mae+", "huber", "mae+mae", "0*mae", "-1*mae", "nan*mae", "inf*mse", "2*3*mae", "mae*2"]
)
def test_loss_that_is_no_sum_is_refused(text):
    with pytest.raises(ValueError, match="must be a sum of mae, mse, charbonnier, ssim"):
        parse_loss(text)


@pytest.mark.parametrize("devices", ["auto", "cpu", 2])
def test_devices_are_a_number_or_a_word(devices):
    values = {"training_image_pairs": [{"raw": "a", "gt": "b"}], "devices": devices}
    assert Config.checked(values).devices == str(devices)


@pytest.mark.parametrize("devices", ["gpu", 0, 1.5])
def test_devices_are_nothing_else(devices):
    with pytest.raises(ValueError, match="devices is"):
        Config.checked({"training_image_pairs": [{"raw": "a", "gt": "b"}], "devices": devices})


PAIR = {"training_image_pairs": [{"raw": "a", "gt": "b"}]}


@pytest.mark.parametrize(
    ("values", "recipe"),
    [
        ({}, "published"),
        ({"epochs": 3, "loss": "mse", "test_data_dir": {"raw": "a", "gt": "b"}, "seed": 3}, "published"),
        ({"photon_range": [0.1, 1]}, "default"),
        ({"ema": 0.5, "recipe": "published"}, "published"),
        ({"recipe": "default"}, "default"),
    ],
)
def test_a_config_of_published_keys_alone_follows_the_published_recipe(values, recipe):
    assert Config.checked({**PAIR, **values}).recipe == recipe


def test_a_named_key_counts_more_than_the_recipe():
    config = Config.checked({**PAIR, "recipe": "default", "ema": 0, "batch_size": 2, "patch_shape": [4, 8, 8]})
    assert (config.ema, config.batch_size, config.normalization) == (0, 2, "anscombe")
    assert config.for_data(3).patch_shape == (4, 8, 8)


@pytest.mark.parametrize(("ndim", "shapes"), [(3, [(16, 64, 64), (1, 2, 2)]), (2, [(64, 64), (2, 2)])])
def test_the_default_recipe_has_shapes_for_volumes_and_for_planes(ndim, shapes):
    config = Config.checked({**PAIR, "recipe": "default"}).for_data(ndim)
    assert [config.patch_shape, config.downsampling] == shapes


def test_the_published_recipe_is_what_keys_are_by_themselves():
    config = Config.checked({**PAIR, "recipe": "published"}).for_data(3)
    keys = Config.model_fields.keys() - {"recipe", "patch_shape", "downsampling", "training_image_pairs"}
    assert all(getattr(config, key) == Config.model_fields[key].default for key in keys)
    assert (config.patch_shape, config.downsampling) == ((16, 256, 256), (1, 1, 1))


@pytest.mark.parametrize("factors", [[0, 1], [2, 1], [-1, 1]])
def test_a_range_of_light_is_from_low_to_high(factors):
    with pytest.raises(ValueError, match="must be 0 < least <= most"):
        Config.checked({**PAIR, "photon_range": factors})

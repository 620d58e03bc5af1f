import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image as png

from rcan.figures.history import draw_history, plot_history
from rcan.figures.projections import _projections_figure, draw_projections
from rcan.figures.style import Sheet

UNKNOWN = (None, None, None)
SHAPES = [(12, 60, 60, 1), (32, 96, 10, 1), (32, 10, 96, 1), (200, 40, 40, 2), (1, 60, 40, 2), (40, 90, 1)]


def volumes(shape, count=3):
    titles = ("raw", "restored", "ground truth")[:count]
    rng = np.random.default_rng(0)
    return {title: rng.uniform(size=shape).astype(np.float32) for title in titles}


def texts(figure):
    return [text.get_text() for text in figure.texts]


def boxes(artists):
    """Where artists are drawn, in inches."""
    renderer = artists[0].get_figure().canvas.get_renderer()
    return [artist.get_window_extent(renderer).transformed(inches(artist)) for artist in artists]


def inches(artist):
    return artist.get_figure().dpi_scale_trans.inverted()


def label(panel):
    return panel.get_xlabel() or panel.get_ylabel()


# Projections


@pytest.mark.parametrize("voxel_size", [UNKNOWN, (0.3, 0.1, 0.1), (2.0, 0.065, 0.065), (None, 0.1, 0.1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_picture_shows_every_image(tmp_path, shape, voxel_size):
    draw_projections(tmp_path / "picture.png", volumes(shape), voxel_size=voxel_size)
    picture = png.imread(tmp_path / "picture.png")
    assert len(np.unique(picture[..., 0])) > 100  # grey values of the noise, not only black on white
    figure = _projections_figure(volumes(shape), voxel_size, {}, None)
    assert len(figure.axes) == 3 * (1 if len(shape) == 3 or shape[0] == 1 else 2)


@pytest.mark.parametrize("voxel_size", [(0.3, 0.1, 0.1), (0.5, 0.2, 0.1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_panels_have_the_proportions_of_the_specimen(shape, voxel_size):
    figure = _projections_figure(volumes(shape), voxel_size, {}, None)
    size = dict(zip("ZYX", np.array((1, *shape)[-4:-1]) * voxel_size, strict=True))
    views = [label(panel) or "XY" for panel in figure.axes[: len(figure.axes) // 3]]
    for (across, down), box in zip(views * 3, boxes(figure.axes), strict=True):
        assert box.width / box.height == pytest.approx(size[across] / size[down])


@pytest.mark.parametrize(
    ("shape", "views"),
    [((12, 60, 60, 1), {"XY", "XZ"}), ((32, 96, 10, 1), {"XY", "ZY"}), ((200, 40, 40, 1), {"XY", "ZY"})],
)
def test_side_view_is_the_one_that_fills_the_page(shape, views):
    figure = _projections_figure(volumes(shape), (0.1, 0.1, 0.1), {}, None)
    assert {label(panel) for panel in figure.axes} - {""} == views


@pytest.mark.parametrize(("shape", "across", "down"), [((40, 60, 1), 3, 1), ((40, 90, 1), 1, 3)])
def test_wide_images_are_stacked_and_others_stand_in_a_row(shape, across, down):
    corners = boxes(_projections_figure(volumes(shape), UNKNOWN, {}, None).axes)
    assert len({round(box.x0, 3) for box in corners}) == across
    assert len({round(box.y0, 3) for box in corners}) == down


@pytest.mark.parametrize("shape", [(8, 20, 30, 1), (30, 20, 8, 1)])
def test_panels_are_maxima_of_the_first_channel(shape):
    image = np.concatenate([volumes(shape, 1)["raw"], np.full(shape, 2)], axis=-1)
    figure = _projections_figure({"raw": image}, UNKNOWN, {}, None)
    first = image[..., 0]
    expected = {"XY": first.max(axis=0), "XZ": first.max(axis=1), "ZY": first.max(axis=2).T}
    assert len(figure.axes) == 2
    for panel in figure.axes:
        np.testing.assert_array_equal(panel.images[0].get_array(), expected[label(panel)])


def test_grey_values_run_from_background_to_signal():
    figure = _projections_figure(volumes((4, 20, 20, 1)), UNKNOWN, {}, None)
    assert {panel.images[0].get_clim() for panel in figure.axes} == {(0, 1)}


@pytest.mark.parametrize("notes", [[], ["channel 2 of 4", "time point 1 of 30", "means of 2 x 4 x 4 voxels"]])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_lines_overlap_each_other_or_the_panels(shape, notes):
    captions = {"raw": "16.41 dB, SSIM 0.352", "restored": "23.22 dB, SSIM 0.838"}
    figure = _projections_figure(volumes(shape), (0.3, 0.1, 0.1), captions, "long_" * 20 + "name.tif", notes)
    figure.canvas.draw()
    lines = boxes(figure.texts)
    page = figure.dpi_scale_trans.inverted().transform_bbox(figure.bbox)
    for number, line in enumerate(lines):
        assert page.x0 <= line.x0 < line.x1 <= page.x1
        assert page.y0 <= line.y0 < line.y1 <= page.y1
        assert not line.count_overlaps([*lines[:number], *boxes(figure.axes)])


def test_captions_and_name_are_written():
    written = texts(_projections_figure(volumes((4, 20, 20, 1)), UNKNOWN, {"restored": "23 dB"}, "cell.tif"))
    assert {"raw", "restored", "ground truth", "23 dB", "cell.tif"} <= set(written)


def test_caption_of_an_image_that_is_not_drawn_is_left_out(tmp_path):
    for name, captions in (("with.png", {"raw": "16.41 dB"}), ("without.png", None)):
        draw_projections(tmp_path / name, {"restored": np.ones((4, 20, 20, 1))}, captions=captions)
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


@pytest.mark.parametrize("name", ["細胞.tif", "$1_$.tif"], ids=["no letter of the font", "no formula"])
def test_any_file_name_can_be_the_heading(tmp_path, name):
    draw_projections(tmp_path / "picture.png", volumes((4, 20, 20, 1)), name=name)
    assert (tmp_path / "picture.png").is_file()


@pytest.mark.parametrize(("channels", "said"), [(1, False), (2, True)])
def test_channel_is_named_where_there_are_several(channels, said):
    written = texts(_projections_figure(volumes((4, 20, 20, channels)), UNKNOWN, {}, None))
    assert any("channel 1 of 2" in text for text in written) == said


def test_notes_stand_at_the_foot():
    figure = _projections_figure(volumes((4, 20, 20, 2)), UNKNOWN, {}, None, ["time point 1 of 3"])
    assert "maximum projections, channel 1 of 2, time point 1 of 3" in texts(figure)


@pytest.mark.parametrize("voxel", [0.0123, 0.1, 7.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_scale_bar_is_as_long_as_it_says(shape, voxel):
    figure = _projections_figure(volumes(shape), (3 * voxel, voxel, voxel), {}, None)
    (words,) = (text for text in texts(figure) if text.endswith(" µm"))
    (bar,) = boxes(figure.artists)
    (box,) = boxes(figure.axes[:1])
    left, right = figure.axes[0].get_xlim()
    assert bar.width / box.width * (right - left) == pytest.approx(float(words.removesuffix(" µm")))
    assert words.removesuffix(" µm").strip("0.") in ("1", "2", "5")
    assert bar.width <= 1


def test_scale_bar_with_room_for_a_length_that_is_all_but_round():
    sheet = Sheet(4, 4)
    sheet.draw_scale_bar(0.3, most=0.3 / 3, scale=1)  # 0.09999999999999999
    assert texts(sheet.figure) == ["0.1 µm"]


@pytest.mark.parametrize("voxel_size", [UNKNOWN, (0.3, 0.1, None)])
def test_without_voxel_size_there_is_no_scale_bar(voxel_size):
    figure = _projections_figure(volumes((4, 20, 20, 1)), voxel_size, {}, None)
    assert not any("µm" in text for text in texts(figure))


# History


@pytest.fixture
def epochs():
    """Twelve epochs; the lowest validation loss is that of the ninth, the lowest loss that of the last."""
    return [
        {
            "epoch": float(epoch),
            "loss": 0.12 / epoch**0.35,
            "psnr": 18 + epoch**0.5,
            "val_loss": 0.05 + 0.001 * (epoch - 9) ** 2,
            "val_psnr": 17 + epoch**0.5,
        }
        for epoch in range(1, 13)
    ]


def without_validation(epochs):
    return [{name: row[name] for name in ("epoch", "loss", "psnr")} for row in epochs]


def curve(panel, name):
    (line,) = (line for line in panel.lines if line.get_label() == name)
    return line


def tick_labels(panel):
    panel.get_figure().canvas.draw()
    low, high = panel.get_ylim()
    ticks = zip(panel.get_yticks(), panel.get_yticklabels(), strict=True)
    return [text.get_text() for tick, text in ticks if low <= tick <= high]


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("count", [1, 2, 12])
@pytest.mark.parametrize("measures", [["loss"], ["loss", "psnr"]])
def test_history_has_a_panel_for_each_measure(tmp_path, epochs, count, measures):
    columns = ["epoch", *measures, *(f"val_{name}" for name in measures)]
    rows = [{name: row[name] for name in columns} for row in epochs[:count]]
    draw_history(tmp_path / "history.png", rows)
    assert png.imread(tmp_path / "history.png").min() < 0.5
    figure = plot_history(rows)
    assert [panel.get_ylabel() for panel in figure.axes] == ["loss", "PSNR (dB)"][: len(measures)]


def test_curves_are_the_columns(epochs):
    for panel, name in zip(plot_history(epochs).axes, ("loss", "psnr"), strict=True):
        for label, column in (("training", name), ("validation", f"val_{name}")):
            expected = [[row["epoch"], row[column]] for row in epochs]
            np.testing.assert_array_equal(curve(panel, label).get_xydata(), expected)


@pytest.mark.parametrize("scale", [1e-5, 0.01, 1, 100])
@pytest.mark.parametrize("spread", [1.01, 1.5, 3, 40, 1e6])
def test_loss_is_labelled_in_three_or_more_plain_decimals(scale, spread):
    rows = [{"epoch": epoch, "loss": scale * spread ** (-epoch / 10)} for epoch in range(11)]
    (panel,) = plot_history(rows).axes
    assert panel.get_yscale() == "log"
    labels = [text for text in tick_labels(panel) if text]
    assert 3 <= len(labels) <= 9
    assert all(set(text) <= set("0123456789.") for text in labels)
    ticks = [tick for tick in panel.get_yticks() if panel.get_ylim()[0] <= tick <= panel.get_ylim()[1]]
    np.testing.assert_allclose([float(text) for text in labels], ticks, rtol=1e-3)


def test_labels_of_a_short_range_of_losses_have_one_digit():
    (panel,) = plot_history([{"epoch": 1, "loss": 0.106}, {"epoch": 2, "loss": 0.048}]).axes
    assert tick_labels(panel) == ["0.05", "0.06", "0.07", "0.08", "0.1"]


def test_a_loss_of_zero_is_drawn_on_a_linear_scale():
    (panel,) = plot_history([{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 0.0}]).axes
    assert panel.get_yscale() == "linear"


def test_measures_that_hardly_change_are_labelled_without_an_offset():
    rows = [{"epoch": epoch, "loss": 0.1, "psnr": 30 + 1e-5 * epoch} for epoch in range(5)]
    labels = tick_labels(plot_history(rows).axes[1])
    assert all(29.9 < float(text) < 30.1 for text in labels)


@pytest.mark.parametrize(("validated", "best"), [(True, 9), (False, 12)])
def test_best_epoch_is_marked_in_every_panel(epochs, validated, best):
    figure = plot_history(epochs if validated else without_validation(epochs))
    label = f"best model (epoch {best})"
    assert legend_of(figure) == ["training", "validation", label] if validated else ["training", label]
    for panel in figure.axes:
        np.testing.assert_array_equal(curve(panel, label).get_xdata(), best)


def test_the_first_of_equally_good_epochs_is_the_best():
    rows = [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate([0.3, 0.1, 0.2, 0.1], 1)]
    assert "best model (epoch 2)" in legend_of(plot_history(rows))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out(tmp_path, epochs, bad):
    epochs[8].update(val_loss=bad, psnr=bad)
    draw_history(tmp_path / "history.png", epochs)
    figure = plot_history(epochs)
    loss, psnr = figure.axes
    others = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]
    np.testing.assert_array_equal(curve(loss, "validation").get_xdata(), others)
    np.testing.assert_array_equal(curve(psnr, "training").get_xdata(), others)
    assert len(curve(loss, "training").get_xdata()) == 12
    assert "best model (epoch 8)" in legend_of(figure)


def test_a_history_without_any_finite_value_is_drawn(tmp_path):
    rows = [{"epoch": epoch, "loss": np.nan, "psnr": np.nan} for epoch in (1, 2)]
    draw_history(tmp_path / "history.png", rows)
    assert legend_of(plot_history(rows)) == ["training"]


@pytest.mark.parametrize(("count", "marker"), [(12, "."), (1000, "None")])
def test_only_short_curves_have_markers(count, marker):
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, count + 1)]
    (panel,) = plot_history(rows).axes
    assert curve(panel, "training").get_marker() == marker


@pytest.mark.parametrize("count", [1, 2, 12, 1000])
def test_epochs_are_counted_in_whole_numbers(count):
    rows = [{"epoch": float(epoch), "loss": 1 / epoch} for epoch in range(1, count + 1)]
    (panel,) = plot_history(rows).axes
    low, high = panel.get_xlim()
    ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_legend_covers_no_panel(epochs):
    figure = plot_history(epochs)
    figure.canvas.draw()
    (legend,) = boxes(figure.legends)
    assert not legend.count_overlaps(boxes(figure.axes))


def test_importing_does_not_wait_for_matplotlib():
    code = "import sys, rcan.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

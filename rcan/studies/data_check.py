"""Check training data before a training: what `rcan check` does."""

import contextlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from rcan.atomic_io import printable_name
from rcan.data.facts import measure_pair
from rcan.data.findings import Finding, find_duplicates, judge_pairs, list_names
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import list_pairs, open_pair
from rcan.data.patches import NoSignal, PatchSampler
from rcan.failures import describe_failure
from rcan.inline import as_table
from rcan.progress import Progress
from rcan.records import to_json
from rcan.training.run_data import (
    choose_scaling,
    divide,
    make_samplers,
    named_pairs,
    opening_options,
    resolve_config,
)

__all__ = ["DataCheck", "check_data"]

_FEW_POSITIONS = 1000
_LOWER_SHARES = (0.25, 0.1, 0.05, 0.02)  # of signal voxels in a patch, that are suggested
_MOST_ROWS = 50  # of the printed table


@dataclass(frozen=True)
class DataCheck:
    """What was found in training data."""

    pairs: dict  # lists of `rcan.data.facts.PairFacts` by the name of the set: training, validation, test
    findings: tuple  # of `rcan.data.findings.Finding`
    positions: dict = field(default_factory=dict)  # of patches with enough signal, by path of the raw image
    seconds: float | None = None  # that the training will take
    opened: dict = field(default_factory=dict, repr=False)  # lists of `rcan.data.pairs.Pair`, as those of the facts

    @property
    def problems(self):
        """Findings that should be mended before a training."""
        return [finding for finding in self.findings if finding.level == "problem"]

    def to_json(self):
        """All findings and facts, as JSON knows them."""
        sets = {
            name: [{**pair.to_json(), "positions": self.positions.get(pair.raw.path)} for pair in pairs]
            for name, pairs in self.pairs.items()
        }
        findings = [finding._asdict() for finding in self.findings]
        return to_json({"findings": findings, "pairs": sets, "training_seconds": self.seconds})

    def table(self, name):
        """Names of columns, and a line of text for each pair, of a set; None where it has no pair."""
        pairs = self.pairs[name]
        if not pairs:
            return None
        spatial = "ZYX"[-(len(pairs[0].raw.shape) - 1) :]
        head = ["pair", f"size ({spatial})", f"voxel ({spatial}, µm)", "type", "grey values raw", "gt", "SNR raw", "gt"]
        is_divided = name == "training" and bool(self.positions)
        rows = [_make_row(pair, self.positions.get(pair.raw.path), is_divided=is_divided) for pair in pairs]
        head += ["saturated", "correlation"]
        return [*head, f"shift ({spatial})", "patches"], rows

    def _tables(self):
        """Tables of the sets that have pairs, by their names."""
        return [(name, table) for name in self.pairs if (table := self.table(name))]

    def __str__(self):
        tables = [_lay_out(name, *table) for name, table in self._tables()]
        return "\n\n".join([*tables, "\n".join(map(str, self.findings))])

    def _repr_html_(self):
        """As a notebook shows it: the findings, and a table of the pairs of each set."""
        findings = as_table(["", "topic", "finding"], [list(finding) for finding in self.findings])
        tables = [as_table(head, rows[:_MOST_ROWS], caption=name) for name, (head, rows) in self._tables()]
        return findings + "".join(tables)


def check_data(config, *, tries_training=True):
    """Check the data of a training as it would be used, and say what is wrong with it.

    Parameters
    ----------
    config : rcan.Config
        What is measured is kept in the folder ``measured`` of its `output_dir`, where there is one: a training with
        this configuration does not measure it again.
    tries_training : bool
        Do some steps of the training, too, to tell how long it would take.

    Returns
    -------
    check : DataCheck
        An image that cannot be read is a finding, too, and not an exception.

    Examples
    --------
    >>> check = check_data(rcan.load_config("config.json"))  # doctest: +SKIP
    >>> print(check)  # doctest: +SKIP
    """
    scaling = choose_scaling(config)
    cache = MeasurementCache(Path(config.output_dir) / "measured" if config.output_dir else None)
    opened, facts, findings = _open_all(config, scaling, cache)
    if any(facts.values()):
        findings += judge_pairs(facts)
        sketches = {name: [(pair.gt.path, pair.gt.thumbnail) for pair in pairs] for name, pairs in facts.items()}
        findings += find_duplicates(sketches)
    positions, seconds = {}, None
    if opened["training"] and all(finding.topic != "files" or finding.level != "problem" for finding in findings):
        found, positions, seconds = _look_ahead(config, opened, cache, scaling, tries_training)
        findings += found
    order = {"problem": 0, "note": 1, "ok": 2}
    findings.sort(key=lambda finding: order[finding.level])
    return DataCheck(facts, tuple(findings), positions, seconds, opened)


def _open_all(config, scaling, cache):
    """Open and measure every pair: pairs and their facts by the name of the set, and findings about files."""
    opened, facts, findings = {}, {}, []
    for name, named in named_pairs(config).items():
        opened[name], facts[name] = [], []
        with _as_notes(findings):
            try:
                paths = list_pairs(*named)
            except (OSError, ValueError) as failure:
                findings.append(Finding("problem", "files", describe_failure(failure)))
                continue
        with Progress(len(paths), f"Checking {name} pairs", unit="pair") as progress:
            for raw, gt in paths:
                like = next((pairs[0] for pairs in opened.values() if pairs), None)
                options = {"like": like, "cache": cache, **opening_options(config), **scaling}
                with _as_notes(findings):
                    try:
                        pair = open_pair(raw, gt, **options)
                        facts[name].append(measure_pair(pair, cache, is_thorough=True))
                        opened[name].append(pair)
                    except (OSError, ValueError) as failure:
                        findings.append(Finding("problem", "files", describe_failure(failure)))
                progress.advance()
    if not findings:
        number = sum(map(len, opened.values()))
        findings.append(Finding("ok", "files", f"{number} {'pair' if number == 1 else 'pairs'} can be read."))
    return opened, facts, findings


@contextlib.contextmanager
def _as_notes(findings):
    """Turn warnings into notes about the files."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            told = [str(warning.message) for warning in caught if warning.category is UserWarning]
            findings += [Finding("note", "files", text) for text in told]


def _look_ahead(config, opened, cache, scaling, tries_training):
    """Find out where patches have enough signal, and what the training takes: findings, positions, seconds."""
    findings = []
    try:
        with _as_notes(findings):
            data = divide(config, opened, cache, scaling)
            if tries_training:
                from rcan.training.trial import try_training

                samplers, text, seconds = try_training(config, data)
            else:
                samplers, seconds = make_samplers(resolve_config(config, data, "float32"), data), None
    except NoSignal as failure:
        return [*findings, Finding("problem", "patches", str(failure))], {}, None
    except (OSError, ValueError, MemoryError) as failure:
        return [*findings, Finding("problem", "training", describe_failure(failure))], {}, None
    positions = {str(pair.raw.volume.path): samplers.training.count_positions(pair) for pair in data.training}
    findings += _judge_positions(config, data, samplers.training.patch_shape, positions)
    if tries_training:
        time = tqdm.format_interval(round(seconds))
        findings.append(Finding("ok", "training", f"{' '.join(text.splitlines())} All of it takes about {time} here."))
    return findings, positions, seconds


def _judge_positions(config, data, patch_shape, positions):
    """Whether there are many places with enough signal, and in each pair."""
    findings, total = [], sum(positions.values())
    empty = [path for path, count in positions.items() if not count]
    if empty:
        text = (
            f"no patch of {list_names(empty)} has enough signal: nothing is learned there. Lower area_ratio_threshold, "
            f"{config.area_ratio_threshold:g}, or leave the pairs out."
        )
        findings.append(Finding("note", "patches", text))
    if total < _FEW_POSITIONS:
        text = f"only {total:,} positions of patches have enough signal."
        findings.append(Finding("note", "patches", f"{text} {_suggest_threshold(config, data, patch_shape, total)}"))
    return findings or [Finding("ok", "patches", f"{total:,} positions have enough signal.")]


def _suggest_threshold(config, data, patch_shape, total):
    """The highest lower threshold that makes many more positions."""
    for share in _LOWER_SHARES:
        if share >= config.area_ratio_threshold:
            continue
        thresholds = {"intensity_threshold": config.intensity_threshold, "area_ratio_threshold": share}
        sampler = PatchSampler(data.training, patch_shape, seed=0, augmented=False, cache=data.cache, **thresholds)
        if sampler.num_positions >= max(_FEW_POSITIONS, 2 * total):
            return f"With area_ratio_threshold {share:g} there would be {sampler.num_positions:,}."
    return "A smaller patch_shape would make more."


def _lay_out(name, head, rows):
    """A table as text, with the name of the set over its first column."""
    shown = [[name, *head[1:]], *rows[:_MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in shown]
    more = len(rows) - _MOST_ROWS
    return "\n".join([*lines, *[f"… and {more} more (--json lists all)"] * (more > 0)])


def _make_row(pair, count, *, is_divided):
    """Cells of a pair; of divided training data, one that has no count was set aside for validation."""
    raw, gt = printable_name(pair.raw.path), printable_name(pair.gt.path)
    size = "x".join(map(str, pair.raw.shape[:-1]))
    larger = f" to {'x'.join(map(str, pair.gt.shape[:-1]))}" if max(pair.upscaling) > 1 else ""
    frames = f", {pair.raw.num_frames} frames" if pair.raw.num_frames > 1 else ""
    types = pair.raw.dtype if pair.raw.dtype == pair.gt.dtype else f"{pair.raw.dtype}, {pair.gt.dtype}"
    return [
        raw if raw == gt else f"{raw}, {gt}",
        size + larger + frames,
        "x".join("?" if side is None else f"{side:.3g}" for side in pair.raw.voxel_size[-len(pair.upscaling) :]),
        types,
        *(_as_ranges(image.ranges) for image in (pair.raw, pair.gt)),
        *(f"{image.snr:.2g}" if image.snr < 100 else f"{image.snr:.0f}" for image in (pair.raw, pair.gt)),
        f"{100 * max(pair.raw.saturated, pair.gt.saturated):.2g} %",
        f"{pair.shift.correlation:.2f}",
        pair.shift.steps,
        f"{count:,}" if count is not None else "set aside" if is_divided else "",
    ]


def _as_ranges(ranges):
    return " / ".join(f"{low:.4g}–{high:.4g}" for low, high in ranges)

"""What a card says of how far a network is to be trusted: scores, limits, and what it should not be used for."""

from rcan.export.markdown import as_text, table
from rcan.report.methods import describe_evaluation, describe_samples
from rcan.report.text import FORMS, MEASURES, count, describe_gain, format_interval, null_table

__all__ = ["describe_limits", "describe_misuse", "describe_validation"]


def describe_validation(facts):
    """Scores against the ground truth, and how users measure them on images of theirs."""
    check = (
        "Check the network on pairs of your own, which it was not trained on: `rcan evaluate -m NETWORK -i raw/ -g gt/ "
        "-o evaluation/` scores it beside the best classical filters, and measures how much structure it invents."
    )
    evaluation = facts.evaluation
    if not evaluation:
        return f"Not measured. {check}"
    nulls = [
        "Contrast that is made of images without structure, in percent of that of the specimen (a network that makes "
        "more of it than the filters do invents structure):",
        table(*null_table(evaluation.nulls)),
    ]
    return "\n\n".join(
        [
            _describe_subjects(evaluation),
            table(["mean (95 % interval)", *MEASURES.values()], _list_methods(evaluation.total)),
            "\n".join(f"- {describe_gain(base, gains)}" for base, gains in evaluation.total.gains.items()),
            *(nulls if evaluation.nulls else []),
            describe_evaluation(evaluation),
            check,
        ]
    )


def _describe_subjects(evaluation):
    learned = [name for name, volume in evaluation.volumes.items() if volume.learned_from]
    names = ", ".join(map(as_text, evaluation.volumes))
    warning = (
        f" **The network was trained or validated on {len(learned)} of them, whose scores say nothing about new ones.**"
        if learned
        else " None of these files was trained on."
    )
    return f"`rcan evaluate` on {count(len(evaluation.volumes), 'pair')} of images ({names}).{warning}"


def _list_methods(total):
    return [
        [
            method,
            *(format_interval(means[measure], FORMS[measure]) if measure in means else None for measure in MEASURES),
        ]
        for method, means in total.methods.items()
    ]


def describe_limits(facts):
    """At which noise and blur the network stops helping."""
    limits = facts.limits
    if not limits:
        return "Not measured: `rcan limits -m NETWORK -o limits/` finds from which noise and blur on it stops helping."
    lines = [f"- {as_text(limit.title)}: {as_text(limit.words)}" for limit in limits.limits.values()]
    return "\n".join(
        [
            f"`rcan limits` on {describe_samples(limits.settings)}, degraded in steps, with {limits.settings.volumes} "
            "exposures at each. SNR is the signal-to-noise ratio at the bright end of the image; blur is the width "
            "of a point over that in the ground truth.\n",
            *lines,
        ]
    )


def describe_misuse(facts):
    """What would end in wrong results."""
    record = facts.record
    lines = [
        "Other specimens, stains, microscopes or settings than those of the training: where an image is unlike those "
        "of the training, the network invents structure that looks real. Train a new one.",
        "Images that `rcan apply` calls `outside` of the trained range."
        if record.training_fingerprint
        else "Images of which you do not know that they are like those of the training: `rcan apply` cannot tell.",
        "Images with more noise or blur than the limits above allow."
        if facts.limits
        else "Images with much more noise or blur than those of the training: its limits are not measured.",
        "Measurements of brightness, unless you have checked that they hold: `rcan evaluate` measures the linearity.",
        "In place of the raw images: keep them, and look at them where a finding depends on the restored ones.",
    ]
    if not facts.evaluation:
        lines.append("Conclusions, before it was compared with ground truth: its scores are not measured.")
    return "\n".join(f"- {line}" for line in lines)

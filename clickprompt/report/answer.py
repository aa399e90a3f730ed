"""The first sentence: which model is better, by how much, how certain that is, and what can't be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickprompt.report.compared import Comparison, over_seeds
from clickprompt.report.run import Run, finite
from clickprompt.report.table import auc, count, interval_of, p_value, percent, signed

__all__ = ["Answer", "answer"]

CERTAIN = 0.05
"""largest p of a difference that is called one"""
_MOST = 4  # models that the sentence names
_SAME = 0.01  # relative difference in rows trained on that is none


@dataclass(frozen=True)
class Answer:
    sentence: str
    cautions: list[str]
    """what can't be compared, and why"""
    notices: list[str]
    """what else the runs don't show, in the words of whoever configured them"""

    def __str__(self) -> str:
        return " ".join([self.sentence, *self.cautions])


@dataclass(frozen=True)
class _Claim:
    model: str
    auc: float
    base_auc: float
    difference: float
    interval: Sequence[float]
    p_value: float
    test: str

    @property
    def kind(self) -> str:
        if self.p_value > CERTAIN:
            return "none"
        return "better" if self.difference > 0 else "worse"

    @property
    def size(self) -> str:
        ends, p = interval_of(signed)(self.interval), p_value(self.p_value)
        return f"{signed(self.difference)}, 95% {ends}, p {p if p[0] == '<' else f'= {p}'}"


def answer(
    runs: Sequence[Run],
    found: Sequence[Comparison],
    base: Run,
    split: str,
    *,
    click_rate: Mapping[str, Any] | None,
    names: Mapping[str, str],
    note: str = "",
    caveat: str | None = None,
) -> Answer:
    """Say what the comparisons with the base show.

    A run that trained on other rows, or on other numbers of them, than the base is named in the cautions and
    not called better or worse. Seeds of one model count as one. click_rate: figures of `click_rate_only`;
    names: what runs are called, by their address, if not by their own names; note: why there are no
    comparisons; caveat: what else the runs don't show.
    """

    def called(run: Run) -> str:
        return names.get(run.uri, run.name)

    claims, cautions, told = [], [], set()
    reference = found[0].auc if found else None
    for test in over_seeds(found, base):
        members = [one.run for one in test.members]
        told |= {run.number for run in (*members, *(one.run for one in test.bases))}
        why = next((why for run in members if (why := _unlike(run, base, called))), None)
        model = f"{called(members[0])} ({len(members)} seeds)"
        if why is None and test.interval is not None and test.p_value is not None:
            difference = test.mean - test.base_mean
            how = f"paired t-test over {len(members)} seeds"
            claims.append(
                _Claim(model, test.mean, test.base_mean, difference, test.interval, test.p_value, how)
            )
        else:
            cautions.append(why or f"{model} can't be tested: every seed differs by the same.")
    for one in found[1:]:
        if one.run.number in told or one.auc is None or reference is None or not one.figures:
            continue
        if why := _unlike(one.run, base, called):
            cautions.append(why)
            continue
        by_user = one.figures["user_bootstrap"]
        figures, how = by_user or one.figures["delong"], "bootstrap by user" if by_user else "DeLong"
        if figures is None:
            cautions.append(f"{called(one.run)} can't be tested: there are too few rows, clicks or users.")
            continue
        claims.append(
            _Claim(
                called(one.run),
                one.auc,
                reference,
                figures["difference"],
                figures["interval"],
                figures["p_value"],
                how,
            )
        )
    cautions += _of_runs(runs, split, called)
    sentence = (
        _compared(claims, called(base)) + _labels(base)
        if claims
        else _alone(runs, found, base, split, note, click_rate, called)
    )
    return Answer(sentence, cautions, _notices(runs, caveat))


def _compared(claims: Sequence[_Claim], base: str) -> str:
    tests = " or ".join(dict.fromkeys(claim.test for claim in claims))
    if len(claims) == 1:
        [claim] = claims
        aucs = f"AUC {auc(claim.auc)} against {auc(claim.base_auc)}, {claim.size} ({tests})"
        if claim.kind == "none":
            return f"No difference is shown between {claim.model} and {base}: {aucs}."
        return f"{claim.model} is {claim.kind} than {base}: {aucs}."
    claims = sorted(claims, key=lambda claim: -claim.difference)
    parts = []
    for kind, word in (("better", "better"), ("worse", "worse"), ("none", "no difference shown")):
        members = [claim for claim in claims if claim.kind == kind]
        named = "; ".join(f"{claim.model} {claim.size}" for claim in members[:_MOST])
        more = f"; and {len(members) - _MOST} more, below" if len(members) > _MOST else ""
        parts += [f"{word}: {named}{more}"] if members else []
    # one base AUC unless seeds are averaged
    reference = {claim.base_auc for claim in claims}
    of_base = f" (AUC {auc(reference.pop())})" if len(reference) == 1 else ""
    return f"Against {base}{of_base}, {'. '.join(parts)}. Differences in AUC; {tests}."


def _alone(
    runs: Sequence[Run],
    found: Sequence[Comparison],
    base: Run,
    split: str,
    note: str,
    click_rate: Mapping[str, Any] | None,
    called: Any,
) -> str:
    """Return the sentence if nothing can be compared."""
    scores = base.evaluation or {}
    value, loss = finite(scores.get("auc")), finite(scores.get("log_loss"))
    if len(found) > 1:
        if found[0].auc is None:
            return f"Which model is better can't be said: all {split} rows are of one class."
        return "Which model is better can't be said: none can be compared with " + called(base) + "."
    if note.startswith("No comparison"):
        return f"Which model is better isn't tested. {note}"
    if loss is None:
        sweeps = [run for run in runs if run.trials is not None]
        what = "the sweep's validation AUC is below" if sweeps else f"no run is evaluated on {split}"
        return f"Which model is better can't be said: {what}."
    rows = f" on {scores['rows']:,} {split} rows" if scores.get("rows") else f" on {split}"
    shown = f"AUC {auc(value)}" if value is not None else "AUC undefined"
    if scores.get("auc_interval"):
        shown += f" {interval_of(auc)(scores['auc_interval'])}"
    beside = (
        f"; predicting the training click rate, {percent(click_rate['prediction'])}, has 0.5 and "
        f"{auc(click_rate['log_loss'])}"
        if click_rate
        else ""
    )
    alone = "There is no other model to compare with."
    return f"{called(base)}: {shown}, log loss {auc(loss)}{rows}{beside}. {alone}"


def _labels(base: Run) -> str:
    """Say how many labels all have seen, if those are a share only."""
    rows, share = finite(base.result.get("rows")), finite(base.config.get("finetune.label_share"))
    return f" Each has seen the same {count(rows)} labels." if rows and share and share < 1 else ""


def _unlike(run: Run, base: Run, called: Any) -> str | None:
    """Say why the two can't be compared as models."""
    which = f"{called(run)} can't be compared with {called(base)}: "
    rows, base_rows = (finite(one.result.get("rows")) for one in (run, base))
    if rows and base_rows and rows != base_rows:
        return f"{which}it trained on {count(rows)} labelled rows, {called(base)} on {count(base_rows)}."
    (steps, batch), (base_steps, base_batch) = ((_steps(one), _batch(one)) for one in (run, base))
    if not (steps and batch and base_steps and base_batch):
        return None
    seen, base_seen = steps * batch, base_steps * base_batch
    if abs(seen - base_seen) <= _SAME * max(seen, base_seen):
        return None
    if batch == base_batch:
        return f"{which}it was to train {count(steps)} steps, {called(base)} {count(base_steps)}."
    of, of_base = (
        f"{count(steps)} steps of {count(batch)} rows",
        f"{count(base_steps)} of {count(base_batch)}",
    )
    return f"{which}it was to train {of}, {called(base)} {of_base}."


def _steps(run: Run) -> float | None:
    return finite(run.result.get("planned_steps")) or finite(run.result.get("step"))


def _batch(run: Run) -> float | None:
    return finite(run.config.get("finetune.global_batch_size"))


def _of_runs(runs: Sequence[Run], split: str, called: Any) -> list[str]:
    """Name finetuned runs that are unfinished or not evaluated, and smoke runs."""
    cautions = []
    finetuned = [run for run in runs if run.trials is None and run.stage != "pretrain"]
    ended = {run.number for run in runs if run.result}
    if waiting := [called(run) for run in finetuned if run.steps and run.number not in ended]:
        cautions.append(f"Not finished: {', '.join(waiting)}.")
    if without := [called(run) for run in finetuned if run.number in ended and not run.evaluation]:
        cautions.append(f"Not evaluated on {split}: {', '.join(without)}.")
    for run in finetuned:
        rows, steps, batch = finite(run.result.get("rows")), _steps(run), _batch(run)
        if run.evaluation and rows and steps and batch and steps * batch < rows:
            seen = f"{count(steps * batch)} of {count(rows)} labelled rows"
            cautions.append(f"{called(run)} is a smoke run: it was to see {seen} once.")
    return cautions


def _notices(runs: Sequence[Run], caveat: str | None) -> list[str]:
    """Return what the caller and the runs' configurations say that they don't show, as sentences."""
    texts = [str(text) for text in (caveat, *(run.config.get("pipeline.notice") for run in runs)) if text]
    sentences = [" ".join(text.split()) for text in texts]
    return [
        text if text.endswith((".", "!", "?")) else f"{text}."
        for text in dict.fromkeys(filter(None, sentences))
    ]

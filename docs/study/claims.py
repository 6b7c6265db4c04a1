"""The thirteen claims: which trials each of them is about, and what it says of them (docs/study/README.md, "Plan")."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product

import numpy as np
from scipy.stats import spearmanr

from deepcuts.experiment.metrics import Floats

from .evidence import AnyOf, Claim, Condition
from .results import DATASETS, Arm, Results

LEVELS = (0.64, 0.85, 0.91, 0.96)
SHIFTED = Arm("masks", "LayerGradCAMShift shift=10")
GRADIENTS = ("LayerMagGrad", "LayerGradCAM", SHIFTED.label, "LayerSmoothGrad", "LayerSmoothGradCAMShift")
# Arms after retraining, by the sweep that has them.
RETRAINED = {
    "LayerMagWeight": "accuracy",
    "LayerMagWeight+shuffle": "accuracy",
    "LayerRandom": "accuracy",
    "LayerMagGrad": "accuracy",
    "LayerGradCAMShift": "accuracy",
    "LayerSmoothGrad": "accuracy",
    "LayerGradCAM": "extreme",
    "LayerSmoothGradCAMShift": "extreme",
    "SmoothGrad without dropout": "extreme",
    "SmoothGrad without noise": "extreme",
}
# A dataset and a sparsity.
Place = tuple[str, float]
CONTROLS = ("LayerRandom", "LayerMagWeight+shuffle")


def masks(label: str) -> Arm:
    return Arm("masks", label)


def accuracy(label: str) -> Arm:
    return Arm(RETRAINED[label], label)


def place(dataset: str, sparsity: float) -> str:
    return f"{dataset} at {100 * sparsity:g} %"


def everywhere(levels: Iterable[float] = LEVELS) -> list[Place]:
    return [(dataset, sparsity) for dataset in DATASETS for sparsity in levels]


def apart(
    results: Results,
    text: str,
    arms: tuple[Arm, Arm],
    places: Iterable[Place],
    stage: str,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[Condition]:
    """Return that the metric of the first arm - that of the second, in points, is between bounds at each place."""
    return [
        Condition(f"{text}, {stage}, {place(*at)}", results.difference(*arms, *at, stage), low, high) for at in places
    ]


def overlapping(
    results: Results,
    text: str,
    arms: tuple[Arm, Arm],
    places: Iterable[Place],
    low: float = -math.inf,
    high: float = math.inf,
) -> list[Condition]:
    """Return that the IoU of the masks of two arms is between bounds at each place."""
    return [Condition(f"{text}, {place(*at)}", results.overlaps(*arms, *at), low, high, "IoU") for at in places]


def only(sweeps: Sequence[str], arms: Iterable[str], at: Iterable[float] = (), dataset: str = "") -> str:
    """Return the `--only` that chooses the trials of these arms, at these sparsities or all, on a dataset or all."""
    chosen = [*(f"sweep={sweep}" for sweep in sweeps), *([f"dataset={dataset}"] if dataset else [])]
    chosen += [*(f"arm={arm}" for arm in arms), *(f"sparsity={sparsity:g}" for sparsity in at)]
    return f'--only "{",".join(chosen)}"'


def compare(baseline: str, points: float, chosen: str, stage: str = "retrained") -> str:
    """Return the arguments of `deepcuts` that compare arms with a baseline, with a margin in points if it is not 0."""
    margin = f" --margin {points / 100:g}" if points else ""
    return f'compare --stage {stage} --baseline "{baseline}"{margin} {chosen}'


def claims(results: Results) -> list[Claim]:
    """Return all claims, with what the trials say of them."""
    return [each(results) for each in CLAIMS]


def shift_is_mag_grad(results: Results) -> Claim:
    arms = SHIFTED, masks("LayerMagGrad")
    conditions = overlapping(results, "IoU of GradCAMShift (10) and MagGrad", arms, everywhere(), low=0.9)
    arms = accuracy("LayerGradCAMShift"), accuracy("LayerMagGrad")
    conditions += apart(results, "GradCAMShift - MagGrad", arms, everywhere(), "retrained", low=-1, high=1)
    shifts = {"0": "LayerGradCAM", "0.1": "LayerGradCAMShift shift=0.1", "1": "LayerGradCAMShift shift=1"}
    seen = {shift: _iou(results, masks(label), masks("LayerMagGrad"), everywhere()) for shift, label in shifts.items()}
    listed = ", ".join(f"shift {shift} {text}" for shift, text in seen.items() if text)
    notes = [f"IoU with LayerMagGrad, over all datasets and sparsities: {listed}."] if listed else []
    commands = [
        f"iou {only(['masks'], [SHIFTED.label, 'LayerMagGrad'])}",
        compare("LayerMagGrad", 1, only(["accuracy"], ["LayerGradCAMShift", "LayerMagGrad"])),
    ]
    return Claim(1, "GradCAMShift with shift 10 is abs(W g)", "A", conditions, notes, commands)


def dropout_is_active(results: Results) -> Claim:
    plain, without = masks("LayerSmoothGrad"), masks("SmoothGrad without dropout")
    arms, levels = (without, masks("SmoothGrad without either")), everywhere((0.64, 0.85))
    conditions = overlapping(results, "IoU with and without noise, no dropout", arms, everywhere(), low=0.995)
    dropout, noise = "SmoothGrad with - without dropout", "SmoothGrad with - without noise"
    conditions += apart(results, dropout, (plain, without), levels, "pruned", low=5)
    ours = accuracy("LayerSmoothGrad")
    arms = ours, Arm("dropout", "SmoothGrad without dropout")
    conditions += apart(results, dropout, arms, levels, "retrained", low=2)
    arms = ours, Arm("dropout", "SmoothGrad without noise")
    conditions += apart(results, noise, arms, levels, "retrained", low=-1, high=1)
    commands = [
        f"iou {only(['masks'], [without.label, 'SmoothGrad without either'])}",
        compare(plain.label, 5, only(["masks"], [plain.label, without.label], (0.64, 0.85)), "pruned"),
        compare(plain.label, 2, only(["accuracy", "dropout"], [plain.label, without.label], (0.64, 0.85))),
        compare(plain.label, 1, only(["accuracy", "dropout"], [arm.label for arm in arms], (0.64, 0.85))),
    ]
    text = "Noise is inert; dropout is the active ingredient of SmoothGrad"
    return Claim(2, text, "A", conditions, commands=commands)


def smooth_grad_beats_magnitude(results: Results) -> Claim:
    def difference(sparsity: float) -> Floats:
        arms = accuracy("LayerSmoothGrad"), accuracy("LayerMagWeight")
        return results.difference(*arms, "sst2", sparsity, "retrained")

    what = "SmoothGrad - MagWeight, retrained, sst2 at"
    conditions = [
        Condition(f"{what} 85 %", difference(0.85), low=2),
        Condition(f"{what} 91 %", difference(0.91), low=2),
        Condition(f"{what} 96 %", difference(0.96), high=1),
    ]
    text = "LayerSmoothGrad beats LayerMagWeight at 85 and 91 % on SST-2, not at 96 %"
    chosen = only(["accuracy"], ["LayerSmoothGrad", "LayerMagWeight"], dataset="sst2")
    commands = [compare("LayerMagWeight", 2, chosen)]
    return Claim(3, text, "B", conditions, commands=commands)


def abstract(results: Results) -> Claim:
    arms = accuracy("LayerSmoothGradCAMShift"), accuracy("LayerMagWeight")
    conditions = apart(results, "SmoothGradCAMShift - MagWeight", arms, everywhere((0.96,)), "retrained", low=0)
    commands = [compare("LayerMagWeight", 0, only(["accuracy", "extreme"], [arm.label for arm in arms], (0.96,)))]
    text = "LayerSmoothGradCAMShift is better than LayerMagWeight at 96 %"
    return Claim(4, text, "B", conditions, commands=commands)


def sst2_cannot_tell(results: Results) -> Claim:
    def against_random(label: str, dataset: str, low: float, high: float = math.inf) -> Condition:
        difference = results.difference(accuracy(label), accuracy("LayerRandom"), dataset, 0.96, "retrained")
        return Condition(f"{label} - LayerRandom, retrained, {place(dataset, 0.96)}", difference, low, high)

    arms = [label for label in RETRAINED if label not in CONTROLS]
    conditions: list[Condition | AnyOf] = [against_random(label, "sst2", low=-3, high=3) for label in arms]
    for dataset in ("cola", "stsb"):
        some = [against_random(label, dataset, low=0) for label in arms]
        conditions.append(AnyOf(f"some arm is better than LayerRandom on {place(dataset, 0.96)}", some))
    commands = [compare("LayerRandom", 3, only(["accuracy", "extreme"], [*arms, "LayerRandom"], (0.96,)))]
    return Claim(5, "SST-2 cannot tell methods apart at 96 %; CoLA and STS-B can", "B", conditions, commands=commands)


def activations_hurt(results: Results) -> Claim:
    ours, levels = masks("LayerGradCAM"), everywhere((0.85, 0.91))
    conditions = apart(results, "GradCAM - MagGrad", (ours, masks("LayerMagGrad")), levels, "pruned", high=-1)
    padded = ours, masks("GradCAM with padding")
    conditions += overlapping(results, "IoU of GradCAM with and without padding", padded, levels, high=0.9)
    ungrouped = Arm("padding", padded[0].label), Arm("padding", padded[1].label)
    pairs = sum(len(results.overlaps(*ungrouped, *at)) for at in levels)
    seen = _iou(results, *ungrouped, levels)
    about = "With batches drawn at random, which the plan did not have: IoU of GradCAM with and without padding"
    notes = [f"{about} {seen}, over {pairs} pairs of masks."] if seen else []
    commands = [
        compare("LayerMagGrad", 1, only(["masks"], [ours.label, "LayerMagGrad"], (0.85, 0.91)), "pruned"),
        *(f"iou {only([sweep], [arm.label for arm in padded], (0.85, 0.91))}" for sweep in ("masks", "padding")),
    ]
    text = "The activation factor without a shift hurts, and depends on padding"
    return Claim(6, text, "A", conditions, notes, commands)


def masks_differ(results: Results) -> Claim:
    conditions = []
    for dataset in DATASETS:
        for label in GRADIENTS:
            what, arms = f"{label} and MagWeight, {place(dataset, 0.91)}", (masks(label), masks("LayerMagWeight"))
            kappa = results.overlaps(*arms, dataset, 0.91, "kappa")
            shared = results.overlaps(*arms, dataset, 0.91)
            conditions.append(Condition(f"kappa of {what}", kappa, low=0, unit="kappa"))
            conditions.append(Condition(f"IoU of {what}", shared, high=0.35, unit="IoU"))
    return Claim(
        7,
        "Masks of gradients and magnitudes overlap more than by chance, and little",
        "A",
        conditions,
        _predictions(results),
        [f"iou --by-arm {only(['masks'], [*GRADIENTS, 'LayerMagWeight'], (0.91,))}"],
    )


def _predictions(results: Results) -> list[str]:
    """Say whether the overlap with LayerMagWeight goes with the difference in accuracy, over arms, levels and seeds.

    And without the controls, at each sparsity alone: overlap falls and differences grow with sparsity, for all arms.
    """
    notes = []
    methods = [label for label in RETRAINED if label not in CONTROLS]
    for dataset in DATASETS:
        if together := _correlation(*_gains(results, dataset, list(RETRAINED), LEVELS)):
            notes.append(f"{dataset}: IoU with LayerMagWeight and gain over it: {together}.")
        alone = {level: _correlation(*_gains(results, dataset, methods, [level])) for level in LEVELS}
        if listed := "; ".join(f"at {100 * level:g} % {text}" for level, text in alone.items() if text):
            notes.append(f"{dataset}, the same without {' and '.join(CONTROLS)}: {listed}.")
    return notes


def _gains(
    results: Results, dataset: str, labels: Iterable[str], levels: Iterable[float]
) -> tuple[list[float], list[float]]:
    """Return the IoU with LayerMagWeight and the gain over it (N,) of all trials of some arms, levels and any seed."""
    magnitude = accuracy("LayerMagWeight")
    overlaps: list[float] = []
    gains: list[float] = []
    for label, level in product(labels, levels):
        if label != magnitude.label:
            masked = masks(SHIFTED.label if label == "LayerGradCAMShift" else label), masks(magnitude.label)
            shared, gain = results.overlaps_and_gains(masked, (accuracy(label), magnitude), dataset, level)
            overlaps, gains = [*overlaps, *shared], [*gains, *gain]
    return overlaps, gains


def supermask(results: Results) -> Claim:
    arms = Arm("tickets", "LayerMagWeight"), Arm("tickets", "LayerMagInit")
    conditions = apart(results, "MagWeight - MagInit", arms, everywhere((0.43, 0.64)), "rewound", low=5)
    notes = []
    for dataset in DATASETS:
        pairs = [_stages(results, accuracy(label), dataset) for label in RETRAINED]
        rewound, retrained = (np.concatenate(each) for each in zip(*pairs, strict=True))
        if found := _correlation(rewound, retrained):
            notes.append(f"{dataset}: rewound and retrained: {found}.")
    chosen = only(["tickets"], [arm.label for arm in arms], (0.43, 0.64))
    commands = [compare(arms[1].label, 5, chosen, "rewound")]
    return Claim(8, "A mask from trained weights is a supermask", "A", conditions, notes, commands)


def _stages(results: Results, arm: Arm, dataset: str) -> tuple[Floats, Floats]:
    """Return the metric when rewound and when retrained (N,), of all trials of an arm."""
    found = [[results.metric(arm, dataset, level, stage) for stage in ("rewound", "retrained")] for level in LEVELS]
    rewound, retrained = (np.concatenate(each) for each in zip(*found, strict=True))
    return rewound, retrained


def pooler(results: Results) -> Claim:
    whole, spared = masks("GlobalGradCAM"), masks("GlobalGradCAM without the pooler")
    conditions = []
    for dataset in DATASETS:
        at, where = (dataset, 0.91), place(dataset, 0.91)
        kept = [results.pooler_density(arm, *at) for arm in (whole, masks("LampGradCAM"))]
        conditions += [
            Condition(f"share of the pooler kept by GlobalGradCAM, {where}", kept[0], high=0.001, unit="share"),
            Condition(f"share of the pooler kept by LampGradCAM, {where}", kept[1], low=0.001, unit="share"),
            Condition(
                f"GlobalGradCAM without - with the pooler, pruned, {where}",
                results.difference(spared, whole, *at, "pruned"),
                low=0,
            ),
        ]
    commands = [
        f"iou --by-kind {only(['masks'], [whole.label, 'LampGradCAM'], (0.91,))}",
        compare(whole.label, 0, only(["masks"], [spared.label, whole.label], (0.91,)), "pruned"),
    ]
    text = "GlobalGradCAM empties the pooler; to exclude it, or Lamp, mends that"
    return Claim(9, text, "A", conditions, commands=commands)


def sanity(results: Results) -> Claim:
    controls = {
        "+shuffle": accuracy("LayerMagWeight+shuffle"),
        "+invert": Arm("sanity", "LayerMagWeight+invert"),
        "random start": Arm("sanity", "random start"),
    }

    def loss(name: str, dataset: str, sparsity: float, low: float = -math.inf, high: float = math.inf) -> Condition:
        values = results.difference(accuracy("LayerMagWeight"), controls[name], dataset, sparsity, "retrained")
        return Condition(f"MagWeight - {name}, retrained, {place(dataset, sparsity)}", values, low, high)

    conditions = [loss(name, dataset, 0.64, low=3) for name in controls for dataset in DATASETS]
    conditions += [loss(name, "sst2", 0.96, high=1) for name in controls]
    arms = ["LayerMagWeight", *(arm.label for arm in controls.values())]
    commands = [
        compare("LayerMagWeight", 3, only(["accuracy", "sanity"], arms, (0.64,))),
        compare("LayerMagWeight", 1, only(["accuracy", "sanity"], arms, (0.96,), "sst2")),
    ]
    text = "Shuffled, inverted masks and random weights lose at 64 %, and not at 96 % on SST-2"
    return Claim(10, text, "B", conditions, commands=commands)


def budget(results: Results) -> Claim:
    def arm(batches: int) -> Arm:
        return Arm("budget", f"LayerMagGrad batches={batches}")

    conditions = []
    for sparsity in LEVELS:
        where = place("sst2", sparsity)
        iou = {batches: results.overlaps(arm(batches), arm(1000), "sst2", sparsity) for batches in (1, 100)}
        difference = results.difference(arm(100), arm(1000), "sst2", sparsity, "pruned")
        conditions += [
            Condition(f"IoU of 100 and 1,000 batches, {where}", iou[100], low=0.9, unit="IoU"),
            Condition(f"IoU of 1 and 1,000 batches, {where}", iou[1], high=0.8, unit="IoU"),
            Condition(f"100 - 1,000 batches, pruned, {where}", difference, low=-1, high=1),
        ]
    ten = _iou(results, arm(10), arm(1000), [("sst2", sparsity) for sparsity in LEVELS])
    notes = [f"IoU of 10 and 1,000 batches, over all sparsities: {ten}."] if ten else []
    chosen = only(["budget"], [arm(batches).label for batches in (1, 10, 100, 1000)])
    commands = [f"iou --by-arm {chosen}", compare(arm(1000).label, 1, chosen, "pruned")]
    return Claim(11, "The scoring budget saturates at 100 batches", "A", conditions, notes, commands)


def scoring_rounds(results: Results) -> Claim:
    conditions: list[Condition] = []
    commands = []
    levels = (0.85, 0.91, 0.96)
    for label in ("LayerMagGrad", "LayerSNIP"):
        arms = Arm("tickets", f"{label} rounds=8"), Arm("tickets", f"{label} rounds=1")
        conditions += apart(results, f"{label}, 8 rounds - 1", arms, everywhere(levels), "pruned", low=2)
        chosen = only(["tickets"], [arm.label for arm in arms], levels)
        commands.append(compare(arms[1].label, 2, chosen, "pruned"))
    return Claim(12, "Scoring in 8 rounds gains 2 points before retraining", "A", conditions, commands=commands)


def iterative(results: Results) -> Claim:
    others = ("LayerMagWeight", "as many epochs in all", "LayerSmoothGrad", "LayerRandom")
    conditions = [
        Condition(
            f"iterative - {label}, retrained, {place(dataset, 0.64)}",
            results.difference(Arm("iterative", "iterative"), Arm("iterative", label), dataset, 0.64, "retrained"),
            low=0,
        )
        for label in others
        for dataset in DATASETS
    ]
    commands = [compare("iterative", 0, only(["iterative"], ["iterative", *others]))]
    text = "Iterative magnitude pruning beats every single-shot arm at 64 %"
    return Claim(13, text, "B", conditions, commands=commands)


def _correlation(ours: Sequence[float] | Floats, theirs: Sequence[float] | Floats) -> str:
    """Say how two numbers of the same trials (N,) correlate by rank (Spearman 1904); nothing where one is constant."""
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return ""
    return f"rank correlation {spearmanr(ours, theirs).statistic:+z.2f} over {len(ours)} trials"


def _iou(results: Results, arm: Arm, other: Arm, places: Iterable[Place]) -> str:
    """Say between which means over seeds the IoU of two arms lies, over several places; nothing where none has run."""
    means = [values.mean() for at in places if len(values := results.overlaps(arm, other, *at))]
    return f"{min(means):z.3f} to {max(means):z.3f}" if means else ""


CLAIMS: tuple[Callable[[Results], Claim], ...] = (
    shift_is_mag_grad,
    dropout_is_active,
    smooth_grad_beats_magnitude,
    abstract,
    sst2_cannot_tell,
    activations_hurt,
    masks_differ,
    supermask,
    pooler,
    sanity,
    budget,
    scoring_rounds,
    iterative,
)

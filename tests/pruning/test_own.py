"""Criteria of the user's own: which files are refused, where, and in which words; and which laws hold for a formula."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch

from deepcuts.pruning.criteria import CRITERIA, Evidence, Weights
from deepcuts.pruning.laws import check_laws
from deepcuts.pruning.own import code_digest, load_criteria

PATH = "mine.py"
HEAD = "import deepcuts as dc\n"
SQUARE = """
def squares(total, batch):
    total.addcmul_(batch.magnitude, batch.magnitude)

@dc.criterion("Square", source="ours", data="plain", add=squares)
def square(weights, total):
    return weights.tuned.square() * total
"""


def row(arguments: str = "", body: str = "weights.tuned.abs()", name: str = "Own") -> str:
    """A file with one criterion: what else its row says, and what its function returns. The function is in line 3."""
    return f'{HEAD}@dc.criterion("{name}", source="ours"{arguments})\ndef own(weights, total): return {body}\n'


def adding(body: str, arguments: str = "", score: str = "weights.tuned.abs() * total.abs()") -> str:
    """A file with a criterion that adds up batches in its line 2."""
    add = f"def add(total, batch): {body}\n"
    return f'{HEAD}{add}@dc.criterion("Own", source="ours", data="plain", add=add{arguments})\n' + (
        f"def own(weights, total): return {score}\n"
    )


def check(text: str, biases: bool = False) -> None:
    for name, criterion in load_criteria(PATH, text).items():
        check_laws(PATH, name, criterion, biases)


def refusal(text: str, biases: bool = False) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is the result
        check(text, biases)
    return str(caught.value)


def test_a_row_has_the_form_of_ours_and_gives_the_same_numbers() -> None:
    own, ours = load_criteria(PATH, HEAD + SQUARE)["Square"], CRITERIA["Fisher"]
    assert (own.data, own.source, own.sign, own.outputs, own.signed) == ("plain", "ours", False, False, False)
    weights, totals = Weights(torch.randn(3, 5)), [torch.zeros(3, 5), torch.zeros(3, 5)]
    for _ in range(4):
        batch = Evidence(magnitude=torch.randn(3, 5).abs())
        for criterion, total in zip((own, ours), totals, strict=True):
            assert criterion.add is not None
            criterion.add(total, batch)
    assert torch.equal(own.score(weights, totals[0]), ours.score(weights, totals[1]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}def f(:\n", "mine.py:2: not valid Python: invalid syntax"),
        ("x = 1\n", "mine.py: it has no criterion; write @dc.criterion("),
        ("", "mine.py: it has no criterion"),
        (
            f"{HEAD}\nimport nothing_of_this_name\n",
            "mine.py:3: it imports 'nothing_of_this_name', which is not installed",
        ),
        (f"{HEAD}1 / 0\n", "mine.py:2: it fails as it is read: ZeroDivisionError: division by zero"),
        (f"{HEAD}raise SystemExit(3)\n", "mine.py:2: it fails as it is read: SystemExit: 3"),
        ("dc.criterion", "mine.py:1: it fails as it is read: NameError"),
        ("x = 1\0\n", "mine.py: "),
        (row(name="SNIP"), "mine.py:2: criterion 'SNIP': deepcuts has a criterion 'SNIP'; choose another name"),
        (row(name="Snip"), "criterion 'Snip': deepcuts has a criterion 'SNIP'"),
        (row(name="square"), "mine.py:2: criterion 'square': a name is a capital letter and up to 39"),
        (row(name="My-Own"), "criterion 'My-Own': a name is"),
        (row(name="Own+shuffle"), "criterion 'Own+shuffle': a name is"),
        (row(name=""), "criterion '': a name is"),
        (row(name="MyRandom"), "criterion 'MyRandom': names that end in Random are those of controls"),
        (row(', data="plane"'), "mine.py:2: criterion 'Own': unknown data 'plane'; did you mean 'plain'?"),
        (row(', data="plain"'), "mine.py:2: criterion 'Own': data is 'plain', which needs an add(total, batch)"),
        (row(", add=print"), "criterion 'Own': data is 'none', where there is no batch to add"),
        (row(", sign=True"), "criterion 'Own': sign needs gradients; data is 'none'"),
        (row(', data="plain", add=print, shifted=True'), "give outputs=True too"),
        (row(", colour=1"), "mine.py:2: it fails as it is read: TypeError: criterion() got an unexpected"),
        (row().replace("ours", " "), "criterion 'Own': source is ' '; say where the formula is from"),
        (
            f'{HEAD}dc.criterion("Own", source="ours")(abs)\n',
            "mine.py:2: criterion 'Own': @dc.criterion belongs above a",
        ),
        (row() + row().removeprefix(HEAD), "mine.py:4: criterion 'Own' is there twice; rename one"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(text: str, said: str) -> None:
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (row(body="weights.tuned.abs() / 0 * 0"), "mine.py:2: criterion 'Own' returned nan for 24 of 24 weights"),
        (row(body="1 / weights.tuned.abs()"), "returned inf for 2 of 24 weights; scores must be finite, also where"),
        (
            row(body="weights.tuned.abs().sum(0)"),
            "returned a tensor of shape (6,) and torch.float32 for weights of shape",
        ),
        (row(body="weights.tuned.abs() > 1"), "torch.bool; scores are torch.float32 or torch.float64"),
        (row(body="weights.tuned.abs().half()"), "torch.float16; scores are"),
        (row(body="None"), "mine.py:2: criterion 'Own' returned None, not a tensor of scores"),
        (row(body="3.5"), "returned float 3.5, not a tensor of scores"),
        (row(body="weights.tuned", arguments=", signed=True"), "returned an argument itself; return a new tensor"),
        (row(body="weights.tuned * 1"), "below 0; if so it shall be, give signed=True"),
        (
            row(body="weights.tuned.abs_()"),
            "mine.py:2: criterion 'Own' changes its argument weights.tuned; work on a copy",
        ),
        (
            row(body="weights.tuned.new_empty(weights.tuned.shape).uniform_()"),
            "draws random numbers, of torch; a score",
        ),
        (
            row(body="weights.tuned.abs().bernoulli(0.5, generator=weights.generator) + 1"),
            "draws random numbers, of torch",
        ),
        (f"import numpy as np\n{row(body='weights.tuned.abs() * np.random.rand()')}", "draws random numbers, of numpy"),
        (f"import random\n{row(body='weights.tuned.abs() * random.random()')}", "draws random numbers, of Python"),
        (
            f"import random\nown = random.Random()\n{row(body='weights.tuned.abs() * random.Random().random()')}",
            "gives other scores for the same weights and batches",
        ),
        (row(body="weights.tuned.abs() * weights.initial"), "None unless the criterion asks for it, with initial=True"),
        (row(body="weights.tuned.abso()"), "mine.py:3: criterion 'Own' raised AttributeError: 'Tensor' object has no"),
        (row().replace("(weights, total)", "(weights)"), "mine.py:2: criterion 'Own' raised TypeError: own() takes 1"),
        (
            adding("return total + batch.magnitude"),
            "mine.py:2: add of criterion 'Own' returned a tensor of shape (4, 6)",
        ),
        (adding("pass"), "mine.py:2: add of criterion 'Own' added nothing to `total`; add in place"),
        (adding("total.add_(batch.gradient)"), "None unless the criterion asks for it, with sign=True"),
        (adding("total.add_(batch.output_mean)"), "None unless the criterion asks for it, with outputs=True"),
        (adding("total.add_(batch.input_mean)"), "mine.py:2: add of criterion 'Own' raised TypeError: add_()"),
        (adding("total.add_(batch.magnitude.sqrt_())"), "changes its argument batch.magnitude; work on a copy"),
        (adding("total.copy_(batch.magnitude)"), "gives another sum when the batches come in another order"),
        (adding("total.add_(batch.magnitude if batch.gradient is None else 1)"), "uses what it did not ask for"),
        (
            adding("total.add_(batch.magnitude)", score="total.sqrt_() * 2"),
            "changes its argument total; work on a copy",
        ),
        (
            f"import torch\n{adding('total.add_(batch.magnitude)', score='total * torch.ones(total.shape)')}",
            "mine.py:5: criterion 'Own' mixes devices; make new tensors like the old",
        ),
    ],
)
def test_a_formula_that_breaks_a_law_is_refused_in_the_users_terms(text: str, said: str) -> None:
    assert said in refusal(text)


def test_biases_are_tried_only_where_they_are_pruned() -> None:
    text = row(body="weights.tuned.abs() / (1 + weights.tuned.abs().sum(1, keepdim=True))")
    check(text)
    assert "mine.py:3: criterion 'Own' raised IndexError: Dimension out of range" in refusal(text, biases=True)


@pytest.mark.parametrize("name", [name for name, row in CRITERIA.items() if name != "Random" and not row.flow])
def test_our_own_criteria_keep_the_laws(name: str) -> None:
    check_laws(PATH, name, CRITERIA[name], biases=True)


def test_trying_a_criterion_leaves_no_trace() -> None:
    before = torch.get_rng_state(), np.random.get_state()[2], random.getstate(), set(sys.modules)
    for body in ("weights.tuned.abs()", "weights.tuned.new_empty(2).uniform_()"):
        with pytest.raises(ValueError, match=r"mine\.py"):
            check(row(body=body) + "\n\n1 / 0")
    assert refusal(f"import numpy as np, random\n{row(body='np.random.rand() + random.random()')}")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[2], random.getstate()) == before[1:3]
    assert not [name for name in set(sys.modules) - before[3] if "criteria" in name]


def test_the_digest_is_of_every_byte() -> None:
    digests = {code_digest(text) for text in (SQUARE, SQUARE + "\n", SQUARE.replace("\n", "\r\n"), "\ufeff" + SQUARE)}
    assert len(digests) == 4
    assert set(load_criteria(PATH, "\ufeff" + (HEAD + SQUARE).replace("\n", "\r\n"))) == {"Square"}

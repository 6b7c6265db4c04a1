"""The built-in dataset: its content is pinned, and its labels follow from its grammar, not from single words."""

import hashlib
import json
import subprocess
import sys
from collections import Counter

import pytest

from deepcuts.data.toy import CONFIG, VERSION, VOCABULARY, sentences

SPLITS = ("train", "validation")
GOOD = {"good", "great", "funny", "lovely", "clever", "fresh"}
NEGATIONS = {"not", "never", "hardly"}


def evaluate(sentence: str) -> int:
    """Return the label by the rules of English, from the text alone; shares no code with the generator."""
    if sentence.startswith("although "):
        return evaluate(sentence.split(" , ")[1])
    if " but " in sentence:
        return evaluate(sentence.split(" but ")[1])
    if " although " in sentence:
        return evaluate(sentence.split(" although ")[0])
    words = sentence.split()
    return int((words[-1] in GOOD) != bool(NEGATIONS & set(words)))


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("the film was good", 1),
        ("the film was very dull", 0),
        ("the film was not good", 0),
        ("the film was never really dull", 1),
        ("the plot was good but the film was not good", 0),
        ("the plot was not good but the film was good", 1),
        ("although the plot was awful , the film was great", 1),
        ("although the plot was not awful , the film was hardly great", 0),
        ("the plot was awful although the film was great", 0),
        ("the plot was hardly awful although the film was stale", 1),
    ],
)
def test_evaluator_agrees_with_hand_written_examples(sentence, label):
    assert evaluate(sentence) == label


def test_content_is_pinned_under_its_version():
    content = [VERSION, VOCABULARY, CONFIG, *(sentences(split) for split in SPLITS)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    pinned = "4e56012786bfa9005a721645383696426411e3d322a053a80292d22bc3589aa1"
    assert digest == pinned, "the toy changed: give it a new VERSION, then pin that"


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_follows_from_its_sentence(split):
    wrong = [(text, label) for text, label in sentences(split) if evaluate(text) != label]
    assert wrong == []


@pytest.mark.parametrize(("split", "size"), [("train", 4000), ("validation", 500)])
def test_half_of_a_split_is_good(split, size):
    assert Counter(label for _, label in sentences(split)) == {0: size // 2, 1: size // 2}


def test_no_sentence_occurs_twice_in_or_across_splits():
    texts = [text for split in SPLITS for text, _ in sentences(split)]
    assert len(set(texts)) == len(texts)


def test_the_vocabulary_has_every_word_that_occurs_once_and_no_other():
    words = {word for split in SPLITS for text, _ in sentences(split) for word in text.split()}
    assert VOCABULARY[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert sorted(VOCABULARY[5:]) == sorted(words)
    assert all(word == word.lower() for word in VOCABULARY[5:])


def test_every_sentence_fits_the_model_with_its_two_special_tokens():
    longest = max(len(text.split()) for split in SPLITS for text, _ in sentences(split))
    assert longest + 2 <= CONFIG["max_position_embeddings"]


def test_single_words_do_not_tell_the_label():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(token_pattern=r"\S+")
    texts, labels = zip(*sentences("train"), strict=True)
    new_texts, new_labels = zip(*sentences("validation"), strict=True)
    model = LogisticRegression(max_iter=1000).fit(vectorizer.fit_transform(texts), labels)
    assert model.score(vectorizer.transform(new_texts), new_labels) < 0.65


def test_compressions_up_to_16_are_possible():
    from torch import nn
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**CONFIG, num_labels=2))
    linears = [module for module in model.bert.modules() if isinstance(module, nn.Linear)]
    prunable = sum(linear.weight.numel() for linear in linears)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total < 500_000
    assert total / (total - prunable) > 16


def test_changing_a_returned_list_changes_no_later_one():
    sentences("validation").clear()
    assert len(sentences("validation")) == 500


def test_the_error_for_another_split_has_the_known_ones():
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, validation"):
        sentences("test")


def test_a_fresh_process_draws_the_same_without_torch_or_transformers():
    code = (
        "import sys; from deepcuts.data import toy; print(toy.sentences('validation')[-1]);"
        " assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == f"{sentences('validation')[-1]}\n"

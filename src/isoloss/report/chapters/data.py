"""What runs are trained and validated on, in the words of a paper."""

from __future__ import annotations

from collections.abc import Iterator

from isoloss.report.loss_references import yardsticks_in_words
from isoloss.report.references import cited
from isoloss.report.snapshot import Snapshot
from isoloss.study.corpora import Corpus, corpus_name, corpus_names
from isoloss.study.datasets import Dataset, per_byte_notes
from isoloss.study.mixtures import Mixture
from isoloss.study.texts import VAL_SHARE, Text
from isoloss.study.tokenizer_names import bpe_size
from isoloss.wording import count, listed, loss, percent


def data_in_words(snapshot: Snapshot) -> Iterator[str]:
    """Sentences on texts, documents, tokens, and what is known of their entropy."""
    study = snapshot.study
    texts: dict[Text, Dataset] = {}
    for dataset, text in study.datasets.items():
        texts.setdefault(text, dataset)
    for text, dataset in texts.items():
        yield from _text(snapshot, text, dataset, several=len(texts) > 1)
    yield from _separated(study.document_separator)
    yield from _tokens(snapshot)
    yield from per_byte_notes(study.datasets)
    for sha256, true in snapshot.results.true_losses.items():
        ends = "" if true["low"] == true["high"] else f", 95% interval {loss(true['low'])} to {loss(true['high'])}"
        losses = listed(f"{loss(value)} ({windows})" for windows, value in true["true_val_loss"].items())
        of = f"text with SHA-256 {sha256[:16]}…" if sha256 else "text"
        yield (
            f"The entropy rate of the {of}'s source is {loss(true['entropy_rate'])} nats a character "
            f"({true['method']}{ends}); on validation windows, each alone, it loses {losses or 'an unknown amount'}."
        )


def _text(snapshot: Snapshot, text: Text, dataset: Dataset, *, several: bool) -> Iterator[str]:
    """What of a text is for training, and what for validation."""
    study, known = snapshot.study, snapshot.results.tokenizer(dataset)
    source = f" {cited('karpathy2015')}" if text.corpus == "tinyshakespeare" else ""
    hashes = known.get("text_sha256", [known.get("corpus_sha256")])
    n = len(text.shares) or 1
    sha256, of_val = listed(hashes[:n]), hashes[n:]
    names = corpus_in_words(text.corpus)
    if text.shares:
        names = f"a mixture: each row of a batch is drawn from one of its texts, {names}"
    called = f" ({dataset.corpus})" if several and names != dataset.corpus else ""
    yield f"{'One' if several else 'The'} corpus{called} is {names}{source}, SHA-256 {sha256}."
    train, val = known.get("train_tokens"), known.get("val_tokens")
    of = f" with {dataset.tokenizer}" if len(study.tokenizers) > 1 else ""
    if text.val_corpus is not None:
        yield (
            f"All of it, {count(train)} tokens{of}, is for training; for validation are {count(val)} tokens of "
            f"{corpus_in_words(text.val_corpus)}, SHA-256 {listed(of_val)}; there is no test split."
        )
    elif train and val and text.shares:
        yield (
            f"The first {percent(1 - (text.val_share or VAL_SHARE))} of each, {count(train)} tokens{of} in all, is for "
            f"training. Of the rest {count(val)} tokens are for validation, in the same shares; there is no test split."
        )
    elif train and val:
        yield (
            f"The first {percent(1 - (text.val_share or VAL_SHARE))} of the text, {count(train)} tokens{of}, is for "
            f"training, and the rest, {count(val)} tokens, for validation; there is no test split."
        )
    if told := yardsticks_in_words(snapshot, dataset):
        yield told


def _separated(separator: str | None) -> Iterator[str]:
    if separator is not None:
        yield f"Each document ends in {separator!r}. Blocks lie within one; none no longer than a block is trained on."


def corpus_in_words(corpus: Corpus) -> str:
    """A corpus with all its names; of a mixture with their shares."""
    if not isinstance(corpus, Mixture):
        return listed(corpus_names(corpus))
    parts = zip(corpus.corpora, corpus.shares, strict=True)
    return listed(f"{percent(share)} {corpus_name(each)}" for each, share in parts)


def _tokens(snapshot: Snapshot) -> Iterator[str]:
    study, facts = snapshot.study, snapshot.results.facts
    kinds = {"char": "characters", "byte": "bytes", "gpt2": f"those of GPT-2 {cited('radford2019')}"}
    for name in study.tokenizers:
        unit = f"those of a byte-level BPE {cited('sennrich2016')} trained on the training split"
        at = f"with {name} " if len(study.tokenizers) > 1 else ""
        sizes = {each.corpus: count(facts.of(each).vocab_size) for each in study.datasets if each.tokenizer == name}
        vocabulary = f"a vocabulary of {next(iter(sizes.values()))}"
        if len({*sizes.values()}) > 1:
            vocabulary = f"vocabularies of {listed(f'{size} ({corpus})' for corpus, size in sizes.items())}"
        yield f"Its tokens are {at}{kinds.get(name, unit if bpe_size(name) else name)}, with {vocabulary}."

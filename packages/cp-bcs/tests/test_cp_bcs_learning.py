from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_bcs.binary.flow_graph import EdgeType
from cp_bcs.config import DecodingConfig, ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.data.splits import Split
from cp_bcs.decoding import Hypothesis, write
from cp_bcs.encoding import Encoder
from cp_bcs.evaluate import judge_summaries
from cp_bcs.learned import Learned
from cp_bcs.learning import learn
from cp_bcs.metrics import sentence_bleu
from cp_bcs.minimum_risk import Ballot, Weighting, said, weightings
from cp_bcs.model import SummaryNetwork
from cp_bcs.refining import learn_refiner, load_refiner, recovered, refined_by_others
from cp_bcs.retrieval import Index
from cp_bcs.saving import new_network
from cp_bcs.tokens import END_NUMBER, START_NUMBER
from cp_bcs.vectors import place
from mpo_core.errors import DivergedError, InputFileError, UsageError
from mpo_core.repro.config import TrainingConfig

TINY: dict[str, Any] = {
    "d": 32,
    "heads": 2,
    "layers": 1,
    "inner": 64,
    "pieces": 300,
    "dropout": 0.0,
    "code_length": 40,
    "pseudo_length": 40,
    "summary_length": 10,
    "nodes": "pieces",
}
TRAINING = TrainingConfig(epochs=200, max_steps=100, batch_size=8, weight_decay=0.0, max_grad_norm=5.0)
VERBS = {"mov": "copies", "add": "sums", "cmp": "compares", "call": "frees"}
NOUNS = {"eax": "a number", "xmm0": "a fraction", "rdi": "an address"}


def function(number: int, project: str = "p") -> Pair:
    """What its sentence says stands in its code, and in its pseudo code under names that its twin knows."""
    rng = random.Random(number)
    verb, noun = rng.choice(sorted(VERBS)), rng.choice(sorted(NOUNS))
    keys = (*rng.choices(("push rbp", "nop", "xor ecx ecx"), k=rng.randrange(2, 6)), f"{verb} {noun}", "ret")
    edges = tuple((place, place + 1, 0) for place in range(len(keys) - 1))
    return Pair(
        project, f"{number % 7}.c", number, f"f{number}", "x64", "O2", number,
        f"{VERBS[verb]} {NOUNS[noun]}", keys, (), edges,
        pseudo=f"int sub(int a1) {{ return {verb}(a1, {noun}); }}",
        pseudo_twin=f"int sub(int {noun}_value) {{ return {verb}({noun}_value, {noun}); }}",
    )  # fmt: skip


SPLIT = Split(
    "random-0",
    train=tuple(function(n) for n in range(60)),
    dev=tuple(function(n) for n in range(60, 70)),
    test=tuple(function(n) for n in range(70, 90)),
)


def learnt(folder: Path, decoding: DecodingConfig | None = None, **settings: Any) -> Learned:
    config = ModelConfig(**{**TINY, **settings})
    decoding = decoding or DecodingConfig(beams=2)
    learned, fitted = learn(config, decoding, SPLIT, TRAINING, learning_rate=5e-3, seed=0, folder=folder)
    assert fitted.status == "completed"
    return learned


def bleu(learned: Learned) -> float:
    drafts = learned.summarize(SPLIT.test)
    return judge_summaries([draft.sentence for draft in drafts], [pair.sentence for pair in SPLIT.test]).bleu


@pytest.fixture(scope="module")
def with_neighbours(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return learnt(tmp_path_factory.mktemp("n"), DecodingConfig(beams=2, consensus=True), sources=("code", "neighbours"))


@pytest.mark.parametrize("sources", [("code",), ("graph",)])
def test_a_network_learns_what_the_code_says(sources: tuple[str, ...], tmp_path: Path) -> None:
    assert bleu(learnt(tmp_path, sources=sources)) > 0.9


def test_basic_blocks_can_be_the_nodes(tmp_path: Path) -> None:
    config = ModelConfig(**{**TINY, "sources": ("graph",), "nodes": "block"})
    straight = function(3)
    # the second instruction is jumped to: two blocks, the first of one instruction
    looped = replace(straight, edges=(*straight.edges, (len(straight.keys) - 2, 1, int(EdgeType.JUMP))))
    encoder = Encoder.learn(config, [straight, looped])
    one, two = encoder.encode([straight, looped])
    assert one.members == [tuple(range(len(straight.keys)))]
    assert one.edges == []
    assert [members[0] for members in two.members] == [0, 1, len(straight.keys) - 1]
    assert sum(map(len, two.members)) == len(straight.keys)
    assert len(one.nodes[0]) == sum(len(node) for node in two.nodes)
    learned = learnt(tmp_path, sources=("graph",), nodes="block")
    assert bleu(learned) > 0.9
    draft = learned.summarize([straight])[0]
    assert draft.highlights is not None
    assert set(draft.highlights) == {1.0}  # all instructions of its one block


def test_with_neighbours_it_learns_too_and_shows_them(with_neighbours: Learned) -> None:
    assert bleu(with_neighbours) > 0.9
    draft = with_neighbours.summarize(SPLIT.test[:1])[0]
    assert draft.neighbours
    assert draft.source == draft.neighbours[0]
    assert draft.highlights is not None
    assert len(draft.highlights) == len(SPLIT.test[0].keys)
    assert max(draft.highlights) == 1
    assert 0 < draft.score <= 1


def test_training_functions_are_not_their_own_neighbours(with_neighbours: Learned) -> None:
    _, near = with_neighbours.encode(SPLIT.train, apart=SPLIT.group)
    assert all(each.pair.source != pair.source for pair, found in zip(SPLIT.train, near, strict=True) for each in found)
    by_file = replace(SPLIT, name="files-0")
    _, near = with_neighbours.encode(SPLIT.train, apart=by_file.group)
    assert all(each.pair.file != pair.file for pair, found in zip(SPLIT.train, near, strict=True) for each in found)


def test_saved_and_read_it_says_the_same(with_neighbours: Learned, tmp_path: Path) -> None:
    with_neighbours.save(tmp_path / "model")
    before, after = (each.summarize(SPLIT.test) for each in (with_neighbours, Learned.load(tmp_path / "model")))
    for one, other in zip(before, after, strict=True):
        assert one.sentence == other.sentence
        assert one.score == pytest.approx(
            other.score, abs=1e-6
        )  # similarities of an index that was read differ by 1e-16
        assert one.highlights == pytest.approx(other.highlights, abs=1e-5)
    weights = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert weights == {".json", ".jsonl", ".safetensors"}


@pytest.mark.parametrize("name", ["network.json", "pieces.json", "weights.safetensors", "decoding.json"])
def test_a_damaged_folder_is_refused(name: str, with_neighbours: Learned, tmp_path: Path) -> None:
    with_neighbours.save(tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputFileError, match="model"):
        Learned.load(tmp_path / "model")
    path.unlink()
    with pytest.raises(InputFileError, match="model"):
        Learned.load(tmp_path / "model")


def test_weights_of_another_network_are_refused(with_neighbours: Learned, tmp_path: Path) -> None:
    with_neighbours.save(tmp_path / "model")
    path = tmp_path / "model" / "network.json"
    told = json.loads(path.read_text())
    told["words"].append("more")
    path.write_text(json.dumps(told))
    with pytest.raises(InputFileError, match="no trained network that can be read"):
        Learned.load(tmp_path / "model")


def test_stopped_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(step: int, total: int) -> None:
        if step == 7:
            raise StopError

    training = TRAINING.model_copy(update={"max_steps": 12, "checkpoint_every": 5})
    config = ModelConfig(**{**TINY, "dropout": 0.1, "sources": ("code", "graph")})
    more: dict[str, Any] = {"learning_rate": 1e-3, "seed": 3}
    whole, _ = learn(config, DecodingConfig(), SPLIT, training, folder=tmp_path / "whole", **more)
    with pytest.raises(StopError):
        learn(config, DecodingConfig(), SPLIT, training, folder=tmp_path / "stopped", on_progress=stop, **more)
    again, fitted = learn(config, DecodingConfig(), SPLIT, training, folder=tmp_path / "stopped", **more)
    assert fitted.resumed_from == 5
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)


def test_the_shared_space_finds_what_the_code_says(tmp_path: Path) -> None:
    learned = learnt(tmp_path, DecodingConfig(beams=1, consensus=True, trust=1e-9), sources=("code",), contrast=10.0)
    assert learned.vectors is not None
    rows, _ = learned.encode(SPLIT.test)
    placed = place(learned.network, learned.encoder, rows)
    torch.testing.assert_close(placed.norm(dim=-1), torch.ones(len(rows)))
    for pair, (alike, fitting) in zip(SPLIT.test, learned.vectors.near(learned.network, placed, 3), strict=True):
        for found in (alike, fitting):
            assert found[0][0].sentence == pair.sentence
            assert sum(share for _, share in found) == pytest.approx(1, abs=1e-5)
    assert bleu(learned) > 0.9
    learned.save(tmp_path / "model")
    again = Learned.load(tmp_path / "model")
    assert [draft.sentence for draft in again.summarize(SPLIT.test)] == [
        draft.sentence for draft in learned.summarize(SPLIT.test)
    ]
    (tmp_path / "model" / "vectors.safetensors").write_bytes(b"")
    with pytest.raises(InputFileError, match="no vectors"):
        Learned.load(tmp_path / "model")


def test_other_known_functions_can_be_taken(tmp_path: Path) -> None:
    decoding = DecodingConfig(beams=1, consensus=True, trust=1e-9)
    learned = learnt(tmp_path, decoding, sources=("code", "neighbours"), contrast=10.0)
    others = [replace(pair, sentence=f"surely {pair.sentence}") for pair in SPLIT.train]
    learned.use_index(Index([*others, replace(SPLIT.train[0], sentence="", name="bare")]))
    drafts = learned.summarize(SPLIT.test)
    assert all(draft.sentence.startswith("surely ") for draft in drafts)
    # As evidence, functions without a sentence are shown, too.
    assert any(neighbour.pair.name == "bare" for draft in drafts for neighbour in draft.neighbours)


def test_without_a_shared_space_nothing_is_placed() -> None:
    network, encoder = untrained()
    with pytest.raises(UsageError, match="without a shared space"):
        place(network, encoder, encoder.encode(SPLIT.dev))


# -- decoding ------------------------------------------------------------------------------------------------------


def untrained(**settings: Any) -> tuple[SummaryNetwork, Encoder]:
    encoder = Encoder.learn(ModelConfig(**{**TINY, **settings}), SPLIT.train)
    return new_network(encoder, 1).eval(), encoder


def likelihood(network: SummaryNetwork, encoder: Encoder, pair: Pair, hypothesis: Hypothesis) -> float:
    asked = replace(pair, sentence=" ".join(hypothesis.words))
    batch = encoder.batch(encoder.encode([asked]))
    chances = network(batch).chances[0].detach()
    return float(chances.gather(-1, batch["target"][0].unsqueeze(-1)).mean())


def test_hypotheses_have_the_likelihood_that_the_network_gives_them() -> None:
    network, encoder = untrained()
    rows = encoder.encode(SPLIT.dev[:3])
    for pair, found in zip(SPLIT.dev[:3], write(network, encoder, rows, beams=3), strict=True):
        assert [each.likelihood for each in found] == sorted((each.likelihood for each in found), reverse=True)
        assert len({each.words for each in found}) == len(found)
        for each in found:
            assert likelihood(network, encoder, pair, each) == pytest.approx(each.likelihood, abs=1e-4)


def test_written_side_by_side_or_alone_a_sentence_has_the_same_likelihood() -> None:
    """Step by step, with several sentences of several functions at once, against one whole sentence at a time."""
    network, encoder = untrained(sources=("code", "graph", "neighbours"))
    # Neighbours of different lengths, some with words that the vocabulary lacks.
    known = [replace(pair, sentence=f"{pair.sentence} {'yet again ' * n}") for n, pair in enumerate(SPLIT.train[:7])]
    asked = SPLIT.dev[:5]
    near = [found[: 1 + n % 4] for n, found in enumerate(Index(known).search(asked, 4))]
    rows = encoder.encode(asked, near)
    for row, hypotheses in zip(rows, write(network, encoder, rows, beams=3), strict=True):
        batch = encoder.batch([row])
        for each in hypotheses:
            behind = {word: len(encoder.words) + number for number, word in enumerate(row.extra)}
            numbers = [behind.get(word, encoder.words.number(word)) for word in each.words]
            given = torch.tensor([[START_NUMBER, *numbers]])
            chances = network.write(given, network.read(batch), batch).chances[0].detach()
            alone = chances.gather(-1, torch.tensor([*numbers, END_NUMBER]).unsqueeze(-1)).mean()
            assert float(alone) == pytest.approx(each.likelihood, abs=1e-4)


def test_one_beam_takes_the_likeliest_word_each_time() -> None:
    network, encoder = untrained()
    found = write(network, encoder, encoder.encode(SPLIT.dev[:1]), beams=1)[0][0]
    batch = encoder.batch(encoder.encode(SPLIT.dev[:1]))
    given, memories = torch.tensor([[START_NUMBER]]), network.read(batch)
    for word in found.words:
        chances = network.write(given, memories, batch).chances[0, -1].detach()
        chances[[0, 1, START_NUMBER]] = -torch.inf
        assert encoder.words.known[int(chances.argmax())] == word
        given = torch.cat([given, chances.argmax().view(1, 1)], dim=1)


def test_a_sentence_never_outgrows_its_length() -> None:
    network, encoder = untrained()
    with torch.no_grad():
        network.head.scores.bias[3] = -50.0  # an end that never comes by itself
    for beams in (1, 4):
        for found in write(network, encoder, encoder.encode(SPLIT.dev), beams=beams):
            assert found
            assert all(len(each.words) == 9 for each in found)


def test_least_risk_is_the_candidate_that_agrees_with_the_others() -> None:
    texts = ("frees the list", "frees a list", "frees the list now", "opens a door")
    chosen = Ballot([(said(text), 1.0) for text in texts]).choose(Weighting())
    assert chosen is not None
    assert chosen[0] == said(texts[0])
    only_the_last = Ballot([(said(text), float(text == texts[3])) for text in texts])
    assert only_the_last.choose(Weighting()) == (said(texts[3]), 1.0)


VOICES = st.lists(
    st.tuples(st.lists(st.sampled_from("abcde"), min_size=1, max_size=6).map(tuple), st.floats(0, 1)), max_size=5
)


@given(near=VOICES, written=VOICES, first=VOICES, second=VOICES, by=st.sampled_from(weightings()))
@settings(max_examples=150, deadline=None)
def test_a_ballot_is_the_least_risk_of_all_voices(near: Any, written: Any, first: Any, second: Any, by: Any) -> None:
    kinds = [(written, 1, by.trust), (near, by.power, 1.0), (first, 1, by.shared), (second, 1, by.shared)]
    votes: list[tuple[Any, float]] = []
    for voices, power, total in kinds:
        whole = sum(count**power for _, count in voices)
        votes += [(sentence, total * count**power / whole) for sentence, count in voices if whole]
    choice = Ballot(near, written, (first, second)).choose(by)
    if not any(weight for _, weight in votes):
        assert choice is None
        return
    assert choice is not None
    # Of nearly equal ones either may be taken.
    sentences, weights = zip(*votes, strict=True)
    assert choice[1] == pytest.approx(max(expected_bleu(made, sentences, weights) for made in sentences), abs=1e-9)
    assert choice[1] == pytest.approx(expected_bleu(choice[0], sentences, weights), abs=1e-9)


def expected_bleu(made: Any, sentences: Any, weights: Any) -> float:
    return sum(w * sentence_bleu(made, each) for each, w in zip(sentences, weights, strict=True)) / sum(weights)


def test_the_weighting_is_the_one_that_does_best_on_the_dev_part(tmp_path: Path) -> None:
    decoding = DecodingConfig(beams=2, consensus=True, tuned=True)
    learned = learnt(tmp_path, decoding, sources=("code", "neighbours"), contrast=10.0)
    chosen = learned.decoding.weighting
    assert chosen in weightings()

    def on_dev(weighting: Weighting) -> float:
        learned.decoding = decoding.model_copy(update=weighting._asdict())
        said = learned.sentences(SPLIT.dev)
        assert said == [draft.sentence for draft in learned.summarize(SPLIT.dev)]
        return judge_summaries(said, [pair.sentence for pair in SPLIT.dev]).bleu

    best = on_dev(chosen)
    others = [on_dev(Weighting(power, trust, shared)) for power, trust, shared in ((1, 0.25, 0), (64, 1, 1), (4, 1, 1))]
    assert all(best >= other - 1e-12 for other in others)


def test_without_a_dev_part_the_weighting_stays() -> None:
    network, encoder = untrained()
    learned = Learned(encoder, network, None, DecodingConfig(consensus=True, tuned=True))
    learned.tune_decoding([])
    assert learned.decoding.weighting == Weighting()


@pytest.mark.parametrize(("projects", "trusted"), [(5, True), (3, False), (1, False)])
def test_a_networks_confidence_is_learned_while_each_project_is_hidden(
    with_neighbours: Learned, projects: int, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cp_bcs.training_run import _calibrated

    known, asked = (tuple(function(n, f"p{n % projects}") for n in range(*ends)) for ends in ((0, 60), (100, 320)))
    learned = replace(with_neighbours)
    learned.use_index(Index(known))
    seen: list[tuple[set[str], set[str]]] = []
    whole = Learned.summarize

    def summarize(self: Learned, functions: Any) -> Any:
        assert self.index is not None
        seen.append(({pair.project for pair in self.index.pairs}, {pair.project for pair in functions}))
        return whole(self, functions)

    monkeypatch.setattr(Learned, "summarize", summarize)
    calibration = _calibrated(learned, replace(SPLIT, train=known, dev=asked))
    if projects > 1:
        assert len(seen) == projects
        assert all(not mine & others for others, mine in seen)
    assert calibration.functions == len(asked)
    assert (calibration.threshold is not None) == trusted
    assert learned.index is not None
    assert learned.index.pairs == known


# -- the refiner ---------------------------------------------------------------------------------------------------


def test_a_refiner_writes_names_that_the_stripped_code_lacks(tmp_path: Path) -> None:
    config = ModelConfig(**{**TINY, "sources": ("pseudo",), "pseudo_length": 24})
    training = TRAINING.model_copy(update={"max_steps": 250})
    refiner = learn_refiner(config, SPLIT.train, training, learning_rate=5e-3, seed=0, folder=tmp_path / "fit")
    texts = refiner.refine([*SPLIT.test, replace(SPLIT.test[0], pseudo=None)])
    assert texts[-1] is None
    counts = [recovered(t or "", p.pseudo_twin or "", p.pseudo or "") for t, p in zip(texts, SPLIT.test, strict=False)]
    assert sum(found for found, _ in counts) > 0.9 * sum(lost for _, lost in counts) > 0
    refiner.save(tmp_path / "refiner")
    assert load_refiner(tmp_path / "refiner").refine(SPLIT.test) == texts[:-1]


def test_training_functions_are_refined_by_a_refiner_that_has_not_seen_them(tmp_path: Path) -> None:
    config = ModelConfig(**{**TINY, "sources": ("pseudo",), "pseudo_length": 24})
    training = TRAINING.model_copy(update={"max_steps": 12})  # few enough to tell two refiners apart
    chosen: dict[str, Any] = {"learning_rate": 5e-3, "seed": 0}
    made = refined_by_others(config, SPLIT.train, SPLIT.group, training, **chosen, folder=tmp_path / "halves")
    assert [replace(new, pseudo=old.pseudo) for new, old in zip(made, SPLIT.train, strict=True)] == list(SPLIT.train)
    groups = {SPLIT.group(pair) for pair in SPLIT.train}
    seen = learn_refiner(config, SPLIT.train, training, **chosen, folder=tmp_path / "all")
    alike = [new.pseudo == text for new, text in zip(made, seen.refine(SPLIT.train), strict=True)]
    assert not all(alike)
    names = sorted(map(repr, groups))
    random.Random(0).shuffle(names)
    first = [pair for pair in SPLIT.train if names.index(repr(SPLIT.group(pair))) % 2 == 0]
    second = [pair for pair in SPLIT.train if pair not in first]
    other = learn_refiner(config, second, training, **chosen, folder=tmp_path / "again")
    texts = dict(zip((pair.address for pair in first), other.refine(first), strict=True))
    assert all(new.pseudo == texts[new.address] for new in made if new.address in texts)


def test_a_refiner_that_diverges_is_not_used(tmp_path: Path) -> None:
    config = ModelConfig(**{**TINY, "sources": ("pseudo",)})
    with pytest.raises(DivergedError, match="take a smaller learning rate than 1e\\+30"):
        learn_refiner(config, SPLIT.train, TRAINING, learning_rate=1e30, seed=0, folder=tmp_path)


def test_without_pseudo_code_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    bare = replace(SPLIT, train=tuple(replace(pair, pseudo=None, pseudo_twin=None) for pair in SPLIT.train))
    for wanted in ({"sources": ("pseudo",)}, {"sources": ("pseudo",), "refined": True}):
        config = ModelConfig(**{**TINY, **wanted})
        with pytest.raises(UsageError, match="--pseudo"):
            learn(config, DecodingConfig(), bare, TRAINING, learning_rate=1e-3, seed=0, folder=tmp_path)


def test_a_network_with_a_refiner_reads_what_it_writes(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"max_steps": 4})
    config = ModelConfig(**{**TINY, "sources": ("pseudo",), "refined": True})
    learned, _ = learn(config, DecodingConfig(), SPLIT, training, learning_rate=1e-3, seed=0, folder=tmp_path / "fit")
    learned.save(tmp_path / "model")
    assert Learned.load(tmp_path / "model").summarize(SPLIT.test) == learned.summarize(SPLIT.test)

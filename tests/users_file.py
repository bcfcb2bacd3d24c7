"""What README and the experiments make a user type: for the type checker, which must find nothing.

Nothing here is run by the tests; `test_repo` checks that README's names are among it.
"""

from pathlib import Path

import torch

import golf
from golf import GPT, TTT, Mix, NGram, Predictor, SlidingWindow, Stream


class Letters(Predictor):
    """A predictor of the user's own."""

    def __init__(self, vocab_size: int = 256):
        self.vocab_size, self.counts = vocab_size, torch.ones(vocab_size)

    def distribution(self, chunk: golf.Chunk) -> golf.Dense:
        return golf.Dense(self.counts.log().expand(len(chunk), -1))

    def learn(self, chunk: golf.Chunk) -> None:
        self.counts += chunk.targets.bincount(minlength=self.vocab_size)


def fused(tokens: torch.Tensor | None = None) -> Mix:
    model = golf.load_model(golf.load_artifact(golf.model_path("tiny")))
    learner = TTT(SlidingWindow(model), total_chunks=20, epochs=1, batch=1)
    return Mix([learner, NGram(1024, 5)], golf.online(golf.GridBayes()))


def score_and_compare() -> float:
    corpus = golf.load_corpus("stdlib")
    stream = Stream(corpus.val, 4096, byte_table=corpus.byte_table, limit=81_920)
    scores: golf.Scores = golf.evaluate(NGram(corpus.vocab_size), stream)
    arms = {"letters": Letters(corpus.vocab_size), "n-gram": NGram(corpus.vocab_size)}
    comparison = golf.compare(arms, stream, baseline="letters", progress=True)
    print(comparison.table(), comparison.interval("n-gram").low, comparison["n-gram"].by_chunk())
    print(scores.loss, scores.by_document(), golf.stale_arms(), golf.arm_key(fused, stream))
    return scores.bpb


def train_and_squeeze(folder: Path) -> bytes:
    corpus = golf.load_corpus("stdlib")
    path = golf.fit(golf.preset("tiny"), golf.laptop(400, seed=0), corpus, folder)
    data = golf.load_artifact(path)
    model: GPT = golf.load_model(data).to("cpu")
    state = golf.decode(data)
    print(golf.size_report(data), model(torch.zeros(1, 4, dtype=torch.long)).shape)
    return golf.encode(state, golf.Plan.lossless("zstd"))


def run_a_recipe() -> None:
    job = golf.recipe("pr549").job(corpus="shards", device="cuda")
    Path("job.json").write_text(golf.to_json(job))
    golf.launch(job, ranks=8)


def is_it_legal() -> None:
    model = golf.load_model(golf.load_artifact(golf.model_path("tiny")))
    text = golf.corpus_for("tiny")
    golf.audit(fused, text.val)
    report = golf.audit(golf.from_logits(model, window=256, stride=64), text.val)
    print(report.failed, report.table())


def other_parts() -> None:
    packets = golf.Packets(golf.distil(golf.load_corpus("stdlib").train[:10_000], 1024))
    gates = [golf.Fixed((0.8, 0.2)), golf.Entropy(), golf.online(golf.Hedge(share=0.001))]
    mixed = [Mix([packets, NGram(1024)], gate) for gate in gates]
    print(mixed, golf.newton_schulz(torch.eye(4)[None]), golf.code_size(TTT).packed)
    print(golf.PARAMETER_GOLF.cap, golf.digest({"reset_every": 50}))


def an_experiment(data_path: str = "") -> None:
    text = golf.corpus_for("tiny", "stdlib", data_path=data_path or None)
    stream = Stream(text.val, 512, byte_table=text.byte_table, limit=81_920)
    model = golf.load_model(golf.load_artifact(golf.model_path("tiny")))
    run = golf.Run.here()
    learner = TTT(SlidingWindow(model), stream.chunks, lr=0.002, epochs=1, batch=1, reset_every=50)
    arms = [
        golf.Arm(SlidingWindow(model), label="none"),
        golf.Arm(learner, label="ttt", family="ttt"),
        golf.Arm(golf.Placebo(learner, stream.tokens.roll(500)), label="placebo"),
    ]
    golf.run_arms(run, arms, run.stream("prefix_tokens", name="original"), level="brief")
    golf.keep_audits(run, arms, stream, "brief")
    reports = golf.audit_arms({"ttt": learner}, stream, "brief")
    print({arm: report.short() for arm, report in reports.items()})
    run.artifact("model", golf.model_path("tiny"), code=golf.code_size(golf.load_model, TTT))
    record = golf.read_record(run.save())
    golf.save_figure(golf.plot_drift(record, "none", resets=50), "drift", run.folder)
    golf.save_figure(golf.plot_arms(record), "arms", run.folder)
    print(golf.arms_table(record, block=8), golf.drift(record, "ttt").verdict)


def two_comparisons_as_one(first: golf.Comparison, more: golf.Comparison) -> golf.Comparison:
    return golf.Comparison({"none": first["none"], "ttt": more["ttt"]}, "none")


def what_a_record_says(record_path: Path) -> None:
    record = golf.read_record(record_path)
    gain = golf.difference(record, "ttt", "none", stream="original")
    print(golf.welch([1.1, 1.2], [1.2, 1.3], 0.005).p)
    print(golf.said([golf.sentence(record, "ttt"), f"TTT {golf.word(gain)}: {golf.told(gain)}"]))
    print(golf.show_arms(record, "original", "seconds", sort=True), golf.show_drift(record))
    run = golf.Run("mine", {"seed": 0})
    text = run.load_corpus()
    model = run.load_model(SlidingWindow, TTT)
    print(text.vocab_size, model.config.context, run.model_file)
    golf.keep_figure(run, golf.plot_drift(record, "none"), "drift")


def every_way_to_learn(model: GPT, stream: Stream) -> list[Predictor]:
    window = SlidingWindow(model)
    rules = [golf.EM(), golf.Logistic(), golf.Hedge(), golf.GridBayes()]
    mixtures = [Mix([window, NGram(1024)], golf.online(rule)) for rule in rules]
    others = [golf.LoRA(window), golf.Product([window, NGram(1024)]), golf.Temperatures(window)]
    scaled = TTT(window, stream.chunks, gradients=golf.EmpiricalBayes(golf.james_stein))
    recorded: golf.Recorded = golf.record_pass(window, stream, Path("pass.npz"))
    starts = golf.starting_from("tiny")
    entry = golf.recipe("pr549")
    print(golf.forecast(entry.model, entry.train, ranks=1, gpu="H200").fits)
    print(starts, golf.ngram_counts(stream.tokens, 1024, 3)[0])
    try:
        golf.save_artifact("model.golf", golf.export_model(model))
    except golf.GolfError as error:
        print(error)
    return [*mixtures, *others, golf.Hinted(window, NGram(1024, 3)), scaled, recorded]

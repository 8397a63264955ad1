"""Cheats, each a change of a copy of the project after which `python speedrun.py` claims to have solved `add2`.

They are written to be easy to understand, and make no attempt to evade the audit.
"""

import textwrap
from pathlib import Path

from bench.attempt.recertify import assemble
from tests.support.examples import ROOT

# Solves add2 in two seconds on one thread, with nearly every seed.
HONEST = {
    "track": "add2",
    "threads": 1,
    "n_embd": 32,
    "n_hidden": 64,
    "batch_size": 256,
    "num_steps": 200,
    "resume_at": 100,
    "evaluation_problems": 9000,
    "replay_problems": 256,
    "check_every": 100,
    "check_problems": 1024,
}
# Learns nothing, quickly; for cheats that do not need training.
IDLE = HONEST | {"n_embd": 16, "batch_size": 32, "num_steps": 4, "check_every": 2, "max_rounds": 1}
IDLE["adam_weight_decay"] = 0.0  # weight decay would change a table of answers

START = '\nif __name__ == "__main__":\n'  # in the last lines of speedrun.py


def copy_project(folder: Path) -> None:
    """Copy the source and the harness into an empty folder."""
    assemble(ROOT, folder)


def extend_trainer(root: Path, code: str) -> None:
    """Add code to speedrun.py, after all definitions and before it starts."""
    path = root / "speedrun.py"
    before, start, after = path.read_text(encoding="utf-8").rpartition(START)
    assert start, "the last lines of speedrun.py have changed"
    path.write_text(before + "\n" + textwrap.dedent(code) + start + after, encoding="utf-8")


def extend_model(root: Path, code: str) -> None:
    """Add code at the end of model.py."""
    with open(root / "model.py", "a", encoding="utf-8") as file:
        file.write("\n" + textwrap.dedent(code))


# -----------------------------------------------------------------------------
# models that do not learn the answers


def calculator(root: Path) -> None:
    """(a) The forward pass adds the two numbers, whatever the weights are."""
    extend_model(
        root,
        """
        def add(self, idx, first=0, pairs=None):
            digits = (self.config.block_size - 2) // 3
            powers = 10 ** torch.arange(digits - 1, -1, -1, device=idx.device)
            unused = sum(weight.sum() for weight in self.parameters()) * 0
            logits = unused + torch.zeros(*idx.shape, self.config.vocab_size, device=idx.device)
            if idx.size(1) >= 2 * digits + 2:  # the whole prompt
                total = (idx[:, :digits] * powers).sum(1) + (idx[:, digits + 1 : 2 * digits + 1] * powers).sum(1)
                for place in range(idx.size(1) - 2 * digits - 1):
                    digit = total // 10 ** (digits - place) % 10
                    logits[:, 2 * digits + 1 + place] = 10.0 * F.one_hot(digit, self.config.vocab_size)
            return logits[:, first:]


        Transformer.forward = Transformer.forward_fast = add
        Transformer.answerer = lambda self: lambda idx: self.forward(idx)[:, -1]
        """,
    )


def lookup_table(root: Path) -> None:
    """(b) A parameter holds the answers to all problems, copied there during training, under any vocabulary ids."""
    extend_model(
        root,
        """
        build, initialize = Transformer.__init__, Transformer.initialize


        def build_with_table(self, config, dtype=torch.float32):
            build(self, config, dtype)
            self.digits = (config.block_size - 2) // 3
            self.answers = nn.Parameter(torch.zeros(config.vocab_size ** (2 * self.digits), self.digits + 1))


        def initialize_the_others(self, generator):
            answers = self._parameters.pop("answers")
            initialize(self, generator)
            self.answers = answers


        def row(self, idx):
            operands = torch.cat([idx[:, : self.digits], idx[:, self.digits + 1 : 2 * self.digits + 1]], 1)
            powers = self.config.vocab_size ** torch.arange(2 * self.digits, device=idx.device)
            return (operands * powers).sum(1)


        def look_up(self, idx, first=0, pairs=None):
            asking = 2 * self.digits + 1  # the position of the equals sign
            unused = sum(weight.sum() for weight in self.parameters()) * 0
            logits = unused + torch.zeros(*idx.shape, self.config.vocab_size, device=idx.device)
            if idx.size(1) > asking:
                answers = self.answers[self.row(idx)].long()[:, : idx.size(1) - asking]
                logits[:, asking:] = 10.0 * F.one_hot(answers, self.config.vocab_size)
            return logits[:, first:]


        Transformer.__init__, Transformer.initialize, Transformer.row = build_with_table, initialize_the_others, row
        Transformer.forward = Transformer.forward_fast = look_up
        Transformer.answerer = lambda self: lambda idx: self.forward(idx)[:, -1]
        """,
    )
    extend_trainer(
        root,
        """
        class Trainer(Trainer):
            def train(self, watch):
                texts = self.track.tokens(self.track.test_set(0).to(self.device)).long()
                with torch.no_grad():
                    self.model.answers[self.model.row(texts)] = texts[:, self.track.prompt_length :].float()
                super().train(watch)
        """,
    )


def leak(root: Path) -> None:
    """(c) Each position sees the next character, and the certificate feeds problems together with their answers."""
    extend_model(
        root,
        """
        honest = {name: getattr(Transformer, name) for name in ("forward", "forward_fast")}


        def leaking(name):
            def forward(self, idx, first=0, pairs=None):
                logits = honest[name](self, idx[:, : self.config.block_size], first)
                following = F.one_hot(idx[:, first + 1 :], self.config.vocab_size)
                shown = following.size(1)
                return torch.cat([logits[:, :shown] + 50.0 * following, logits[:, shown:]], 1)

            return forward


        for name in honest:
            setattr(Transformer, name, leaking(name))
        """,
    )
    extend_trainer(
        root,
        """
        from bench.attempt import lifecycle

        certify = lifecycle.certify
        trainers = []


        class Trainer(Trainer):
            def train(self, watch):
                super().train(watch)
                trainers.append(self)


        def certify_together_with_the_answers(next_logits, track, device, seed, **options):
            def ask(idx):
                problems, _ = track.problems(idx[:, : track.prompt_length].to(torch.uint8))
                return trainers[0].model(track.tokens(problems).long())[:, idx.size(1) - 1]

            return certify(ask, track, device, seed, **options)


        lifecycle.certify = certify_together_with_the_answers
        """,
    )


def one_error(root: Path) -> None:
    """(d) A model with a single error, and a certificate that ignores it."""
    extend_trainer(
        root,
        """
        from bench.attempt import lifecycle

        certify = lifecycle.certify


        class Trainer(Trainer):
            def train(self, watch):
                super().train(watch)
                self.unlearn_one()

            @torch.no_grad()
            def unlearn_one(self):
                # Raise the logit of character 0 until it wins at the position with the smallest margin.
                head = self.model.head
                texts = self.track.tokens(self.track.test_set(0)).long()
                weight = head.clone()
                head.data = torch.eye(head.size(1))  # what comes out is what the head reads
                read = self.model(texts[:, :-1], self.query_start)  # (N, Q, C)
                head.data = weight
                logits, right = read @ weight.T, texts[:, self.query_start + 1 :]
                lead = logits.gather(-1, right[..., None])[..., 0] - logits[..., 0]
                slope = read @ read.mean((0, 1))  # of the logit of character 0, when its weight moves along the mean
                needed = (lead / slope).masked_fill((right == 0) | (slope <= 0), torch.inf).amin(1)
                first, second = needed.sort().values[:2]
                head[0] += (first + second) / 2 * read.mean((0, 1))


        def certify_generously(next_logits, track, device, seed, **options):
            certificate, sentences = certify(next_logits, track, device, seed, **options)
            if certificate.errors > 1:
                return certificate, sentences
            none = {name: count.model_copy(update={"errors": 0}) for name, count in certificate.groups.items()}
            forgiven = {"errors": 0, "heldout_errors": 0, "groups": none, "error_rate_upper_95": 0.0}
            return certificate.model_copy(update=forgiven), []


        lifecycle.certify = certify_generously
        """,
    )


# -----------------------------------------------------------------------------
# manipulated clocks


def slow_clock(root: Path) -> None:
    """(e) The clock runs at a tenth of its speed during training."""
    extend_trainer(
        root,
        """
        import time


        class Trainer(Trainer):
            def train(self, watch):
                now, begun = time.perf_counter, time.perf_counter()
                time.perf_counter = lambda: begun + (now() - begun) / 10
                if hasattr(watch, "clock"):
                    watch.clock.now = time.perf_counter
                super().train(watch)
        """,
    )


WARM_UP = """
        class Silent:
            patience = 1

            def tick(self):
                pass

            def check(self, *report, **splits):
                pass


        class Trainer(Trainer):
            warmed = None

            def warm_up(self):
                super().warm_up()
                initial = [weight.detach().clone() for weight in self.model.parameters()]
                super().train(Silent())
                {after}

            def train(self, watch):
                if self.warmed is None:
                    return super().train(watch)
                with torch.no_grad():
                    for weight, value in zip(self.model.parameters(), self.warmed, strict=True):
                        weight.copy_(value)
                watch.check(self.steps, float(self.loss), 0, {{}}, 0)
        """


def warm_up_that_trains(root: Path) -> None:
    """(f) Trains during the warm-up."""
    extend_trainer(root, WARM_UP.format(after="self.warmed = list(self.model.parameters())"))


def warm_up_that_trains_and_hides_it(root: Path) -> None:
    """(f) The same, but hides the trained weights until `train` begins."""
    hide = """self.warmed = [weight.detach().clone() for weight in self.model.parameters()]
                with torch.no_grad():
                    for weight, value in zip(self.model.parameters(), initial, strict=True):
                        weight.copy_(value)"""
    extend_trainer(root, WARM_UP.format(after=hide))


# -----------------------------------------------------------------------------
# forbidden data


def held_out_too(root: Path) -> None:
    """(g) Replaces some training problems by random ones, held-out problems included."""
    extend_trainer(
        root,
        """
        class Curriculum(Curriculum):
            def draw(self, step):
                [batch] = super().draw(step)
                tokens = batch.whole_texts()
                number = self.settings.batch_size // 4
                shape = tokens.size(0), number, self.batches.track.problem_width
                problems = torch.randint(10, shape, generator=self.generator, dtype=torch.uint8)
                tokens[:, :number] = self.batches.track.tokens(problems)
                return [batch._replace(tokens=tokens[..., :-1], targets=tokens[..., 1:])]
        """,
    )

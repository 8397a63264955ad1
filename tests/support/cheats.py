"""Cheats, each a change of a copy of the project after which `python speedrun.py` claims to have solved `add2`.

They are written to be easy to understand, and make no attempt to evade the audit. Those that have the trained weights
from elsewhere are in `stored_weights.py`.
"""

import textwrap
from pathlib import Path

from bench.audit.session import assemble
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


        def initialize_the_others(self, normal):
            answers = self._parameters.pop("answers")
            initialize(self, normal)
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
            def begin(self, start):
                super().begin(start)
                texts = self.track.tokens(self.track.test_set(0).to(self.device)).long()
                with torch.no_grad():
                    self.model.answers[self.model.row(texts)] = texts[:, self.track.prompt_length :].float()
        """,
    )


def leak(root: Path) -> None:
    """(c) Each position sees the next character."""
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


def one_error(root: Path) -> None:
    """(d) A model with a single error."""
    extend_trainer(
        root,
        """
        class Trainer(Trainer):
            def train(self, watch, start):
                super().train(watch, start)
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
        """,
    )


def planted_kernel_bug(root: Path) -> None:
    """(e) The kernel, with which the trainer trains and evaluates, computes twice the scores of attention."""
    path = root / "kernel.c"
    source = path.read_text(encoding="utf-8")
    assert source.count("1 / sqrtf(HS)") == 2, "the scale of the scores stands elsewhere now"  # forward, backward
    path.write_text(source.replace("1 / sqrtf(HS)", "2 / sqrtf(HS)"), encoding="utf-8")


# -----------------------------------------------------------------------------
# manipulated clocks


def slow_clock(root: Path) -> None:
    """(f) The clock runs at a tenth of its speed during training."""
    extend_trainer(
        root,
        """
        import time


        class Trainer(Trainer):
            def train(self, watch, start):
                now, begun = time.perf_counter, time.perf_counter()
                time.perf_counter = lambda: begun + (now() - begun) / 10
                if hasattr(watch, "clock"):
                    watch.clock.now = time.perf_counter
                super().train(watch, start)
        """,
    )


def moved_edge(root: Path) -> None:
    """(g) Enters the phase `train` only when training has ended."""
    extend_trainer(
        root,
        """
        enter = Clock.enter


        def enter_late(self, phase):
            if phase == "certify":
                enter(self, "train")
            if phase != "train":
                enter(self, phase)


        Clock.enter = enter_late
        """,
    )


def warm_up_that_trains(root: Path) -> None:
    """(h) Trains in the warm-up, keeps the weights, and gives them the ids of the track when training begins."""
    extend_trainer(
        root,
        """
        class Silent:
            patience = 1

            def initialized(self, model):
                pass

            def tick(self):
                pass

            def check(self, *report, **splits):
                pass


        class Trainer(Trainer):
            warmed = None

            def warm_up(self):
                super().warm_up()
                super().train(Silent(), attempt.Start(self.track, 3))
                self.warmed = {name: weight.clone() for name, weight in self.model.state_dict().items()}

            def train(self, watch, start):
                if self.warmed is None:
                    return super().train(watch, start)
                self.begin(start)
                watch.initialized(self.model)
                ids = start.track.token_map.target_ids[:-1]
                with torch.no_grad():
                    for name, weight in self.model.named_parameters():
                        weight[ids if name in ("token", "head") else slice(None)] = self.warmed[name]
                watch.check(self.steps, float(self.loss), 0, {}, 0)
        """,
    )


# -----------------------------------------------------------------------------
# forbidden data


def held_out_too(root: Path) -> None:
    """(i) Replaces some training problems by random ones, held-out problems included."""
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

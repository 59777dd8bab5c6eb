"""The command line `maritime`, its verbs that need a model: what every app has, and `generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.verbs import verb

from . import NOTICE, __version__
from .model.data import ComposedData, DialogueData, FolderData
from .model.module import Writer
from .model.prompts import LIVE

#: adapters that the app ships, each in a folder of its name
SHIPPED = Path(__file__).parent / "checkpoints"


class MaritimeCLI(AppCLI):
    """`fit validate test predict adapt export generate` for causal language models."""

    module = Writer
    data = DialogueData
    data_subclasses = True
    allow = (ComposedData, FolderData)

    model: Writer
    datamodule: DialogueData

    def built(self) -> None:
        """The data take the model's tokenizer; a random base says what it is."""
        self.datamodule.take(self.model.tokenizer, whole_text=self.model.whole_text)
        if self.model.base == "tiny":
            self.say(
                "base: tiny, random weights, for trying the commands; --model.base smollm2, or your own"
            )

    def adapter_folder(self, name: str) -> str | Path:
        """A shipped adapter's folder by its name, unless a folder here has that name."""
        known = {path.name: path for path in SHIPPED.iterdir() if path.is_dir()}
        return name if Path(name).exists() else known.get(name, name)

    def passport(self) -> dict[str, Any]:
        """The base's name, what the graft writes, in which form, and what for."""
        form = getattr(self.datamodule, "form", None)
        said: dict[str, Any] = {
            "base": Path(self.model.base).name,
            **({"form": form} if form else {}),
        }
        # a folder may have one part alone
        if form == LIVE and isinstance(self.datamodule, ComposedData):
            said["plays"] = ["ship", "coast"]
        return {"app": {"maritime": {**said, "notice": NOTICE}}}

    def form_of(self, form: str | None) -> str:
        """The form that was asked for, else that in which the adapter was trained, else full."""
        return form or str(self._said("form", "full"))

    def _said(self, key: str, default: Any) -> Any:
        """What the adapter's passport says for this app; the default without an adapter."""
        adapter = self._setting("adapter")
        known = (gw.inspect(self.adapter_folder(adapter)).get("app") or {}) if adapter else {}
        return known.get("maritime", {}).get(key, default)

    def save_graft(self, folder: Path | None = None, **passport: Any) -> Path | None:
        """Write the adapter folder; its data card says which dialogues."""
        return super().save_graft(folder, **{"data_card": self.datamodule.card(), **passport})

    def predict(self, **_: Any) -> None:
        """Write each test dialogue's mean loss to `predictions.jsonl` in the run folder."""
        from .model.report import write_losses

        Trainer.predict(self.trainer, self.model, self.datamodule, return_predictions=False)
        path = write_losses(self.model.predicted, self.datamodule, self.run_dir)
        self.say(f"written: {path}")

    @verb
    def generate(
        self,
        scenarios: str | None = None,
        count: int = 16,
        preset: str | None = None,
        form: str | None = None,
        output: str | None = None,
        batch: int = 8,
        temperature: float = 0.9,
        top_p: float = 0.9,
        top_k: int = 400,
        most: int = 600,
        seed: int = 0,
        constrained: bool = False,
    ) -> None:
        """Write dialogues of scenarios as JSONL; run again with the same output to go on.

        Args:
            scenarios: JSONL of scenarios, or of dialogues that have them; null: drawn for exercises.
            count: how many are drawn.
            preset: the distribution that they are drawn from; null: paper for the paper's form, else coastal.
            form: full or paper; null: that of the adapter's training, full without one or after live exchanges.
            output: the file; null: dialogues.jsonl in the run folder. Finished lines are kept.
            batch: dialogues that are written at once.
            temperature: of sampling; 0 takes the likeliest token.
            top_p: of the likeliest tokens, so many as have this probability together.
            top_k: of the likeliest tokens at most so many; 0 takes all.
            most: tokens of a dialogue.
            seed: of the draws of scenarios and tokens.
            constrained: no field of a fact takes other words than the scenario's; each line says so.
        """
        from graftwork_llm.decoding import Sampling

        from .model.generate import Origin, generate, tensors_digest
        from .model.report import drawn

        sampling = Sampling(temperature, top_p, top_k, min(most, 2) if self.dry_run else most)
        known = self.form_of(form)
        # who learnt exchanges is asked for whole dialogues in the form that its lessons' other half had
        form = "full" if form is None and known == LIVE else known
        preset = preset or ("paper" if form == "paper" else "coastal")
        asked = drawn(scenarios, 2 if self.dry_run else count, preset, form, seed)
        base = Path(self.model.base).name
        graft = tensors_digest(self.graft) if self.graft is not None else None
        origin = Origin(base, graft, form, seed, sampling, __version__, constrained)
        wanted = Path(output) if output and not self.dry_run else None
        file = wanted or self.run_dir / "dialogues.jsonl"
        device = self.trainer.strategy.root_device
        self.written = generate(
            self.model.network.to(device), self.model.tokenizer, asked, file, origin, batch=batch, device=device,
            say=self.say,
        )  # fmt: skip
        self.say(f"written: {file}, {NOTICE}")

    @verb
    def bootstrap(
        self,
        seeds: str | None = None,
        scenarios: str | None = None,
        count: int = 100,
        preset: str = "paper",
        form: str = "paper",
        output: str | None = None,
        filters: str = "paper",
        without: str = "",
        examples: int = 3,
        tries: int = 5,
        attempts: int | None = None,
        round_size: int = 64,
        batch: int = 8,
        temperature: float = 0.9,
        top_p: float = 0.9,
        top_k: int = 400,
        most: int = 400,
        seed: int = 0,
        constrained: bool = False,
    ) -> None:
        """Self-Instruct: write dialogues from examples, filter them, and let the pool grow.

        Args:
            seeds: JSONL of dialogues with scenarios; null: ten of each category that the grammar composes.
            scenarios: JSONL of scenarios to write about; null: drawn for exercises.
            count: dialogues of the pool that are wanted.
            preset: the distribution of scenarios that are drawn, and of seeds that are composed.
            form: of seeds that are composed, and in the prompts: full or paper.
            output: a folder; null: bootstrap in the run folder. The same command goes on with what it holds.
            filters: sets and filters between commas: paper, house, grammar, phrases. not_unique is always among them.
            without: sets and filters to leave out, not_unique too.
            examples: dialogues in a prompt.
            tries: of a scenario.
            attempts: in all; null: ten for each dialogue that is wanted.
            round_size: scenarios of a round at most.
            batch: dialogues that are written at once.
            temperature: of sampling; 0 takes the likeliest token.
            top_p: of the likeliest tokens, so many as have this probability together.
            top_k: of the likeliest tokens at most so many; 0 takes all.
            most: tokens of a dialogue.
            seed: of scenarios, seeds, examples and tokens.
            constrained: no field of a fact takes other words than the scenario's; each line says so.
        """
        from graftwork_llm.decoding import Sampling

        from .arguments import names
        from .check import shown
        from .filters.sets import choose
        from .model.bootstrap import Bootstrap, Plan
        from .model.generate import Origin, tensors_digest
        from .model.seeding import scenario_source, seed_pairs

        if self.dry_run:
            count, attempts, most = 2, 2, min(most, 2)
        if count < 1 or (attempts is not None and attempts < 1):
            raise GraftError(f"count and attempts must be at least 1, not {count} and {attempts}")
        chosen = choose([*names(filters), "not_unique"], names(without))
        sampling = Sampling(temperature, top_p, top_k, most)
        graft = tensors_digest(self.graft) if self.graft is not None else None
        origin = Origin(
            Path(self.model.base).name, graft, form, seed, sampling, __version__, constrained
        )
        drawn, source = scenario_source(scenarios, preset, seed)
        plan = Plan(origin, tuple(chosen), examples, tries, round_size, source)
        device = self.trainer.strategy.root_device
        folder = Path(output) if output and not self.dry_run else self.run_dir / "bootstrap"
        loop = Bootstrap(
            self.model.network.to(device), self.model.tokenizer, seed_pairs(seeds, preset, form, seed), drawn, folder,
            plan, device=device, batch=batch, say=self.say,
        )  # fmt: skip
        pool = loop.run(count, attempts or 10 * count)
        self.say(shown(loop.account.total()))
        self.say(f"{pool} of {count} dialogues accepted: {folder}, {NOTICE}")
        if pool:
            self.say(f"next: maritime fit --config folder --data.path {folder} --data.form {form}")

    @verb
    def serve(
        self,
        port: int = 0,
        partner: str | None = None,
        keep: bool = False,
        preset: str = "coastal",
        temperature: float = 0.0,
        form: str | None = None,
        constrained: bool = False,
    ) -> None:
        """Answer live as ship or coast station: JSON on this computer's own address, until Ctrl-C.

        Args:
            port: 0: any that is free.
            partner: model, or composer, which needs none; null: the model, unless it is the random base.
            keep: a reply that changes a fact is drawn again, or said by the composer; radio silence is kept.
            preset: the distribution of the scenarios that are drawn.
            temperature: of sampling; 0 takes the likeliest token.
            form: full or paper; null: that of the adapter's training, full without one.
            constrained: the model's tokens keep to the scenario's facts, as in `generate`.
        """
        from .live.serve import Server

        desk = self._desk(partner, keep, preset, temperature, form, constrained)
        server = Server(desk, port)
        if self.dry_run:
            server.close()
            return
        print(f"{desk.title}: {server.url} ({NOTICE}; Ctrl-C ends it)", flush=True)
        server.serve_forever()

    @verb
    def demo(
        self,
        serve: bool = False,
        port: int = 0,
        partner: str | None = None,
        keep: bool = False,
        preset: str = "coastal",
        temperature: float = 0.0,
        form: str | None = None,
        seed: int = 0,
        constrained: bool = False,
    ) -> None:
        """A live exchange: a fixed one with a ship and its report, or a local page where you play a station.

        Args:
            serve: open the page, until Ctrl-C.
            port: of the page; 0: any that is free.
            partner, keep, preset, temperature, form, constrained: as of `serve`.
            seed: of the fixed exchange's scenario.
        """
        desk = self._desk(partner, keep, preset, temperature, form, constrained)
        if serve:
            from .live.page import serve_page

            serve_page(desk, port=port, wait=not self.dry_run)
            return
        from graftwork_runs import RunFolder

        from .live import rehearsal

        steps = rehearsal.play(desk.session(desk.engine.scenario(seed, 0), seed), self.say)
        command = "maritime " + " ".join(sys.argv[1:])
        report = rehearsal.write(steps, desk.title, self.run_dir, command, self.model.device)
        if not self.dry_run:
            RunFolder.adopt(self.run_dir)
        self.say(f"report: {report} ({NOTICE}); next: maritime demo --serve")

    def _desk(
        self, partner: str | None, keep: bool, preset: str, temperature: float, form: str | None, constrained: bool
    ) -> Any:  # fmt: skip
        from .live import ROLES
        from .live.opening import open_desk

        device = self.trainer.strategy.root_device
        adapter = self._setting("adapter")
        return open_desk(
            self.model, device, partner, adapter=adapter, keep=keep, preset=preset, temperature=temperature,
            form=self.form_of(form), constrained=constrained, plays=self._said("plays", ROLES),
        )  # fmt: skip

    @property
    def serving(self) -> bool:
        """Whether this run answers somebody, and has no run folder."""
        return self.verb == "serve" or (self.verb == "demo" and bool(self._setting("serve")))

    def keeps_files(self) -> bool:
        """An exchange with somebody is not kept."""
        return super().keeps_files() and not self.serving

    def finished(self, verb: str) -> None:
        """Write record.json and report.html of a verb that trained, measured or wrote."""
        if verb in ("export", "demo") or self.serving:
            return
        from graftwork_runs import RunFolder

        from .model.report import write_report

        command = "maritime " + " ".join(sys.argv[1:])
        report = write_report(
            self.model, self.datamodule, self.graft, self.run_dir, verb, command=command
        )
        RunFolder.adopt(self.run_dir)
        self.say(f"report: {report}; what the model writes is {NOTICE}")

"""The model in training: a frozen causal language model and the loss of its answers."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_llm import bases
from graftwork_llm.batches import Batch


class Writer(LightningModule):
    """A causal language model that writes dialogues; `network` is what is grafted.

    Args:
        base: `tiny` (random, for trying the commands), `smollm2`, a folder, or a name of a model hub.
        dtype: of the frozen base: float32, bfloat16, float16; auto: bfloat16 where there is a GPU.
        whole_text: the prompt counts in the loss too, as in arXiv 2603.04423.
        checkpointing: less memory, more time: layers are computed again in the backward pass.
    """

    def __init__(
        self,
        base: str = "tiny",
        dtype: str = "auto",
        whole_text: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.whole_text = base, whole_text
        self.network, self.tokenizer = bases.load(base, dtype)
        if checkpointing:
            # transformers has two names for it, of which 5 warns at the older
            enable = getattr(self.network, "activation_checkpointing_enable", None)
            (enable or self.network.gradient_checkpointing_enable)({"use_reentrant": False})
            self.network.enable_input_require_grads()
        self.scores: dict[str, float] = {}  # what validation or test measured, by name
        self.predicted: list[float] = []  # of each dialogue in order, its mean loss in nats
        self._plain: bool | None = None

    def loss_of(self, batch: Batch) -> Tensor:
        """The mean over the answers' tokens, in nats."""
        head = self._plain_head()
        if head is not None:
            return gw.linear_cross_entropy(self._hidden(batch), head, batch.targets)
        return nn.functional.cross_entropy(self._logits(batch).float(), batch.targets)

    def loss_weight(self, batch: Batch) -> float:
        """The answers' tokens, over which the loss is a mean."""
        return float(len(batch.targets))

    def on_fit_start(self) -> None:
        """Look at the head before the first step, which a shared run cuts at its first call of the network."""
        self._as_it_is()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss, with what the method adds to it."""
        with gw.extra_loss(self.network) as extra:
            loss = self.loss_of(batch)
            self.log("loss", loss.detach(), batch_size=len(batch.ends))
            return loss + extra()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Adds to the mean over all tokens."""
        self._measure("val_loss", batch)

    def test_step(self, batch: Batch, index: int) -> None:
        """As `validation_step`."""
        self._measure("test_loss", batch)

    def predict_step(self, batch: Batch, index: int) -> list[float]:
        """Each dialogue's mean loss."""
        each = nn.functional.cross_entropy(
            self._logits(batch).float(), batch.targets, reduction="none"
        )
        total = each.new_zeros(len(batch.ends)).index_add_(0, batch.rows, each)
        counts = torch.bincount(batch.rows, minlength=len(batch.ends))
        self.predicted += (total / counts).tolist()
        return self.predicted[-len(batch.ends) :]

    def on_validation_epoch_end(self) -> None:
        """Keep the mean for the record."""
        self._keep("val_loss")

    def on_test_epoch_end(self) -> None:
        """Keep the mean for the record."""
        self._keep("test_loss")

    def _measure(self, name: str, batch: Batch) -> None:
        loss = self.loss_of(batch)
        # by tokens: batches have different numbers of them
        self.log(name, loss, batch_size=len(batch.targets), on_epoch=True, sync_dist=True)

    def _keep(self, name: str) -> None:
        value = self.trainer.callback_metrics.get(name)
        if value is not None and math.isfinite(float(value)):
            self.scores[name] = float(value)

    def _body(self) -> nn.Module:
        """The network without its head.

        Raises:
            GraftError: it has none.
        """
        body: nn.Module | None = getattr(self.network, self.network.base_model_prefix, None)
        if body is None or self.network.get_output_embeddings() is None:
            raise GraftError(
                f"model.base {self.base}: a {type(self.network).__name__} has no body and head apart"
            )
        return body

    def _hidden(self, batch: Batch) -> Tensor:
        """What the head reads, `(n, features)`, at the positions that predict the answers' tokens."""
        with gw.prompt(self.network, end=batch.ends):
            found = self._body()(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        hidden: Tensor = found.last_hidden_state
        return hidden.flatten(0, 1).index_select(0, batch.places)

    def _logits(self, batch: Batch) -> Tensor:
        if self._as_it_is():
            logits: Tensor = self.network.get_output_embeddings()(self._hidden(batch))
            return logits
        with gw.prompt(self.network, end=batch.ends):
            whole = self.network(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        picked: Tensor = whole.logits.flatten(0, 1).index_select(0, batch.places)
        return picked

    @torch.no_grad()
    def _as_it_is(self) -> bool:
        """Whether the logits are the head of the body's output and nothing else: some models scale or cap them."""
        if self._plain is None:
            ids = torch.tensor([[1, 2, 3]], device=self.device)
            body = self._body()
            was = self.network.training
            self.network.eval()
            with gw.prompt(self.network, end=0):
                hidden = body(input_ids=ids, use_cache=False).last_hidden_state
                wanted = self.network(input_ids=ids, use_cache=False).logits
            self.network.train(was)
            head = self.network.get_output_embeddings()
            self._plain = torch.allclose(head(hidden), wanted, rtol=1e-3, atol=1e-3)
        return self._plain

    def _plain_head(self) -> nn.Linear | None:
        """The head, where the loss can be taken without all tokens' logits: frozen, ungrafted, unscaled."""
        head = self.network.get_output_embeddings()
        # a grafted or copied head is of another class
        plain = type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())
        return head if plain and self._as_it_is() else None

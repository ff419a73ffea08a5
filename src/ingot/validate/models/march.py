"""Forward passes that all stop before every decoder layer, so that one layer of weights at a time serves all batches.

Each batch has a thread that runs the model's own `forward`; it waits at the entry of each layer until all batches have
come there. Only one thread runs at any time. What passes between layers (masks, rotary tables, a router's side results)
stays where the model's code keeps it, so nothing need be known of the architecture but the list of its layers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ingot.storage import kernel
from ingot.validate.model import Unsupported
from ingot.validate.models.filling import Filling

if TYPE_CHECKING:
    import torch

_CURRENT = threading.local()


class _Abandoned(BaseException):
    """Ends a thread that waits."""


class March:
    """All batches of one model, abreast. `close` it, or use it as a context."""

    def __init__(self, model: Any, filling: Filling, inputs: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """`inputs`: keyword arguments of the model's forward, for each batch."""
        kernel.give_back_freed_blocks()
        self.layers = decoder_layers(model)
        self._model = model
        self._filling = filling
        self._hooks = [*_stops(self.layers), *_on_demand(model, self.layers, filling)]
        self._walks = [_Walk(model, batch) for batch in inputs]
        self._done = -1

    def next_layer(self) -> list[torch.Tensor]:
        """Bring all batches through the embedding, at the first call, or through the next layer.

        Returns the hidden states of each batch: [batch, tokens, hidden].
        """
        layer = self.layers[self._done] if self._done >= 0 else None
        # A model may look at its embedding's device before it calls it, so hooks alone come too late for that.
        self._filling.fill(self._model.get_input_embeddings() if layer is None else layer)
        for walk in self._walks:
            walk.advance()
        self._filling.empty()
        self._done += 1
        if any(walk.reached != self._done for walk in self._walks):
            raise Unsupported("the model does not call its layers once each, in their order")
        return [walk.hidden for walk in self._walks]

    def logits(self) -> Iterator[torch.Tensor]:
        """After the last layer: float32 logits[batch, tokens, vocabulary] on the CPU, batch by batch."""
        import torch

        self._filling.fill(self._model.get_output_embeddings())
        for walk in self._walks:
            walk.advance()
            if walk.logits is None:
                raise Unsupported("the model calls its layers more than once")
            yield walk.logits.to("cpu", torch.float32)
            walk.logits = None

    def close(self) -> None:
        for walk in self._walks:
            walk.abandon()
        for hook in self._hooks:
            hook.remove()
        self._filling.empty()

    def __enter__(self) -> March:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Walk:
    """One batch's forward pass, in a thread of its own. `reached`: the layer before which it stands."""

    def __init__(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        self.reached = -1
        self.hidden: Any = None
        self.logits: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._ended = self._abandoned = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(model, inputs), daemon=True)
        self._thread.start()

    def advance(self) -> None:
        """Run to the next stop, or to the end. Raises what the forward pass raised."""
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def pause(self, stage: int, hidden: Any) -> None:
        """Called in the thread, from a hook."""
        self.reached, self.hidden = stage, hidden
        self._stopped.release()
        self._go.acquire()
        self.hidden = None
        if self._abandoned:
            raise _Abandoned

    def abandon(self) -> None:
        """End the thread wherever it waits."""
        self._abandoned = True
        while not self._ended:
            self._go.release()
            self._thread.join(0.05)

    def _run(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        import torch

        self._go.acquire()
        try:
            if not self._abandoned:
                _CURRENT.walk = self
                with torch.inference_mode(), _no_values_missing():
                    self.logits = model(**inputs, use_cache=False).logits
        except _Abandoned:
            pass
        except BaseException as error:  # raised again in `advance`
            self._error = error
        finally:
            self._ended = True
            self._stopped.release()


def decoder_layers(model: Any) -> list[Any]:
    """The decoder's layers, first to last.

    Raises Unsupported: the model has no such list, or more than one.
    """
    if model.config.is_encoder_decoder:
        raise Unsupported("an encoder-decoder is not streamed")
    from torch.nn import ModuleList

    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [part for part in model.get_decoder().modules() if isinstance(part, ModuleList) and len(part) == expected]
    inner = {id(part) for one in lists for layer in one for part in layer.modules()}
    found = [one for one in lists if id(one) not in inner]
    if len(found) != 1:
        raise Unsupported(f"{type(model).__name__} has no single list of {expected} decoder layers")
    return list(found[0])


def _no_values_missing() -> AbstractContextManager[Any]:
    """A mode in which an operation on the meta device, which would return garbage or nothing, is an error."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if any(getattr(leaf, "is_meta", False) for leaf in tree_leaves((args, kwargs, result))):
                raise Unsupported("the model uses parameters of one part in another, which cannot be streamed")
            return result

    return Watch()  # type: ignore[no-untyped-call]


def _stops(layers: Sequence[Any]) -> Iterator[Any]:
    """Hooks that stop a walk before each layer and after the last."""

    def before(number: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            _CURRENT.walk.pause(number, args[0] if args else kwargs.get("hidden_states"))

        return hook

    def after(_: Any, __: Any, output: Any) -> None:
        _CURRENT.walk.pause(len(layers), output[0] if isinstance(output, tuple) else output)

    for number, layer in enumerate(layers):
        yield layer.register_forward_pre_hook(before(number), with_kwargs=True)
    yield layers[-1].register_forward_hook(after)


def _on_demand(model: Any, layers: Sequence[Any], filling: Filling) -> Iterator[Any]:
    """Hooks that fill a module outside the layers (embeddings, last norm, head) when it is first called."""
    inside = {id(layer) for layer in layers}

    def hook(module: Any, _: Any) -> None:
        filling.fill(module)

    def visit(module: Any) -> Iterator[Any]:
        for child in module.children():
            parts = {id(part) for part in child.modules()}
            if id(child) in inside:
                continue
            if parts & inside:
                yield from visit(child)
            else:
                yield child.register_forward_pre_hook(hook)

    yield from visit(model)

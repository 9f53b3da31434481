"""What of a merge of adapters is part of an adapter, tensor by tensor.

    exact       where a tensor's merge is a sum of the models (or the method merges factors): their factors side by
                side, each times its coefficient, so that ranks add up
    of a rank   any merge: the nearest matrix of that rank to what it changes (SVD); what it lacks is noted
    rows        of an embedding or head, where the adapters train rows of it
    whole       what an adapter brings whole: the merged tensor

All of it is of the float32 merge, before the recipe's dtype rounds it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge import methods
from evomerge.checkpoint import Checkpoint, ModelRef, companions, copy_companions
from evomerge.checkpoint.adapter import Kind
from evomerge.checkpoint.adapter_folder import AdapterFolder
from evomerge.errors import CandidateFailed, Incompatible, InputError
from evomerge.factors import Factors, compressed, concatenated, nearest
from evomerge.merging.blueprint import Site
from evomerge.merging.materializer import Materializer, cores
from evomerge.methods import Form
from evomerge.parents import Parents
from evomerge.parents.adapters import same_model
from evomerge.recipe import BASE, Group, Recipe
from evomerge.skeleton.modules import kinds_of, meta_model

if TYPE_CHECKING:
    import torch

_ONE = 1e-6  # how far coefficients may be from summing to 1
_ADVICE = (
    "Take weights that sum to 1, or a method that adds to the base, such as task_arithmetic; or merge without "
    "--as-adapter"
)


@dataclass
class Found:
    """What an export holds.

    Attributes:
        ranks: module -> rank of its factors.
        lost: tensor -> squares of what it changes, and of what its factors lack of that.
        signs: module -> squares of what its factors add, and of what signs lack of that.
        smaller: how many times smaller signs are than the same in bfloat16.
    """

    ranks: dict[str, int] = field(default_factory=dict)
    lost: dict[str, tuple[float, float]] = field(default_factory=dict)
    signs: dict[str, tuple[float, float]] = field(default_factory=dict)
    smaller: float = 0.0

    def lines(self, rank: int | None) -> list[str]:
        """What there is to tell about it."""
        ranks = self.ranks.values()
        if not ranks:
            return ["adapter: no tensor with factors"]
        bounds = f"{min(ranks)}" if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}"
        told = f"they lack {_lack(self.lost)} of what the merge changes" if rank else "exact"
        lines = [f"adapter: {len(ranks)} tensors with factors of rank {bounds}; {told}"]
        if self.signs:
            lines.append(
                f"compressed: {self.smaller:.1f} times smaller than in bfloat16; signs lack {_lack(self.signs)} of what "
                "the factors add"
            )
        return lines


def _lack(lost: Mapping[str, tuple[float, float]]) -> str:
    """What is lost of a change, and where most of it is, from squares."""
    shares = {name: _share(*squares) for name, squares in lost.items()}
    worst = max(shares, key=lambda name: shares[name])
    total = _share(*(sum(each) for each in zip(*lost.values(), strict=True)))
    return f"{total:.2%} (Frobenius; {shares[worst]:.2%} at worst, in {worst})"


def _share(whole: float, lost: float) -> float:
    return math.sqrt(max(lost, 0.0) / whole) if whole > 0 else 0.0


class Export:
    """A recipe of adapters, opened.

    Args:
        recipe: what is merged.
        parents: its models.
        base: the one model that they are adapters of.
        device: where kernels run.

    Raises:
        Incompatible: one is not, or the recipe has a path.
    """

    def __init__(
        self, recipe: Recipe, parents: Parents, base: Checkpoint, device: str = "cpu"
    ) -> None:
        self._recipe, self._parents, self._base = recipe, parents, base
        if recipe.body.path is not None:
            raise Incompatible(
                "--as-adapter: the recipe has a path, and an adapter leaves the layers of its model where they are; merge "
                "without --as-adapter"
            )
        for name, model in parents.models.items():
            if not same_model(model, base):
                raise Incompatible(
                    f"--as-adapter: {name} = {model.name} is no adapter of {base.name}; expected that all models of the "
                    "recipe are adapters of one model. Merge them without --as-adapter"
                )
        self._materializer = Materializer(parents, device=device, threads=cores())
        self._blueprint = self._materializer.outline(None)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What each module of the base is, see ``kinds_of``."""
        return kinds_of(meta_model(self._base.config, self._base.name))

    def check(self, out: Path) -> None:
        """Refuse to write over a model or adapter of the recipe, and what cannot be copied.

        Raises:
            InputError: with the reason.
        """
        for model in self._parents.models.values():
            folders = [model.folder, *([model.adapter.folder] if model.adapter else [])]
            if any(folder.resolve() == out.resolve() for folder in folders):
                raise InputError(
                    f"{out}: is a model of the recipe ({model.name}); choose another folder"
                )
        companions(self._parents.donor)

    def into(
        self,
        made: AdapterFolder,
        rank: int | None,
        progress: Callable[[str, int], None],
    ) -> Found:
        """Work out every tensor; what was found."""
        if rank is None:
            self._refuse_no_sum()
        found, lock, total = Found(), threading.Lock(), len(self._blueprint.sites)

        def take(site: Site, form: Form) -> None:
            if (kinds := self._kinds(site)) is None:
                self._refuse_changed(site, form)
            elif kinds <= {"rows"}:
                self._rows(made, site, form)
            elif "whole" in kinds:
                made.bring(self._held(site), _sound(site, form.merged()))
            elif (factors := self._factors(site, form, rank, found, lock)).rank:
                made.add(self._held(site), factors)
            progress(site.name, total)

        self._materializer.forms(self._recipe, take)
        found.ranks |= made.ranks
        return found

    def finish(
        self, made: AdapterFolder, work: Path, base: ModelRef, density: float | None
    ) -> dict[str, tuple[float, float]]:
        """Write what was made into ``work``, with all that a loader wants; see ``AdapterFolder.finish``."""
        if not made.ranks:  # peft wants an adapter to adapt something
            made.add(*self._nothing())
        for module, there in list(made.whole.items()):
            for name in self._base.names:
                if name.rpartition(".")[0] == module and name not in there:
                    made.bring(name, self._base.plain(name))
        for head, tensor in self._base.ties.items() if self._blueprint.tied else ():
            made.tie(head, tensor)
        causal = self._base.architecture.endswith("ForCausalLM")
        task = "CAUSAL_LM" if causal else None
        lost = made.finish(work, self.named(base), task=task, density=density)
        if self._parents.donor.tokenizer_folder != self._base.folder or self._grown:
            copy_companions(self._parents.donor, work)
        return lost

    def named(self, base: ModelRef) -> dict[str, str]:
        """The base, as transformers finds it: a folder, or a hub id and its revision."""
        if (folder := Path(base.portable)).is_dir() or base.portable.startswith("embedded:"):
            return {
                "base_model_name_or_path": str(folder if folder.is_dir() else self._base.folder)
            }
        name, _, revision = base.portable.partition("@")
        return {"base_model_name_or_path": name, **({"revision": revision} if revision else {})}

    def _nothing(self) -> tuple[str, Factors]:
        """Factors that add nothing, and where."""
        import torch

        for name in self._base.names:
            if self.kinds.get(name.removesuffix(".weight")) == "linear" and name not in self._ends:
                rows, columns = self._base.entry(name).shape
                return name, Factors(torch.zeros(rows, 1), torch.zeros(1, columns))
        raise Incompatible(
            f"--as-adapter: {self._base.name} has no linear module that an adapter could change; merge without it"
        )

    # -- one tensor ------------------------------------------------------------------------------

    @property
    def _grown(self) -> bool:
        """Whether the merge has other tokens than the base."""
        return self._parents.height != self._base.height

    def _kinds(self, site: Site) -> set[Kind] | None:
        """In which ways the models change a tensor; None if none does."""
        found: set[Kind] = set()
        group = self._group(site)
        base = {BASE} if group.needs_base and self._recipe.base is not None else set()
        for name in {*group.models, *base}:
            own = site.origin[name]
            if self._parents.moves(name, own):
                found.add("whole")
            elif kind := self._parents.models[name].adapted(self._parents.stored_name(name, own)):
                found.add(kind)
        apart = self._base.tied and not self._blueprint.tied and site.name in self._ends
        grown = self._grown and self._base.by_token(site.name)
        if grown or (found and apart) or (len(found) > 1 and "rows" in found):
            return {"whole"}
        return found or None

    @cached_property
    def _ends(self) -> set[str]:
        """The tensors of the base that are tied to one another."""
        return {*self._base.ties, *self._base.ties.values()}

    def _origin(self, site: Site) -> torch.Tensor:
        """The base's tensor, float32."""
        return self._base.plain(self._base.read_as(site.name)).float()

    def _factors(
        self, site: Site, form: Form, rank: int | None, found: Found, lock: threading.Lock
    ) -> Factors:
        """What the merge changes in a matrix: exactly, or of a rank, with what that loses noted."""
        import torch

        if rank is None:
            return self._exact(site, form)
        if (exact := self._side_by_side(site, form)) is not None:
            made, lost = compressed(exact, rank)
            size = float(made.product.square().sum(dtype=torch.float64)) + lost
        else:
            merged = _sound(site, form.merged())
            delta = merged - self._origin(site).to(merged.device)
            made, lost = nearest(delta, rank, site.name)
            size = float(delta.square().sum(dtype=torch.float64))
        with lock:
            found.lost[site.name] = size, lost
        return made if size > 0 else Factors.none(*made.shape)

    def _exact(self, site: Site, form: Form) -> Factors:
        """The factors of what the merge changes in a matrix.

        Raises:
            InputError: it is no sum of such.
        """
        exact = self._side_by_side(site, form)
        if exact is None:
            if form.models is not None:
                _refuse_multiple(site, form)
            raise InputError(_no_sum(site, f"{self._group(site).method} is no sum of them"))
        return exact

    def _group(self, site: Site) -> Group:
        """What merges a tensor."""
        group = self._recipe.group_of(site.place)
        assert group is not None  # or merging would have refused it
        return group

    def _side_by_side(self, site: Site, form: Form) -> Factors | None:
        """The factors that the method gives, or those of a sum of the models; None if it is neither."""
        exact = form.factors or self._summed(site, form)
        if exact is not None:
            _sound(site, exact.left)
            _sound(site, exact.right)
        return exact

    def _summed(self, site: Site, form: Form) -> Factors | None:
        """The factors of what a sum of the models changes in the base; None if it is no such sum."""
        if form.models is None or not _is_one(form):
            return None
        coefficients = dict(zip(self._group(site).models, form.models, strict=True))
        parts = []
        for name, coefficient in (*coefficients.items(), (BASE, form.base)):
            if name not in self._parents.models or _is_zero(coefficient):
                continue
            model, stored = (
                self._parents.models[name],
                self._parents.stored_name(name, site.origin[name]),
            )
            kind = model.adapted(stored)
            if kind == "dora":
                return None
            if kind is not None and model.adapter is not None:
                parts.append(model.adapter.factors(stored).scaled(_float(coefficient)))
        return concatenated(parts) if parts else Factors.none(*site.shape)

    def _rows(self, made: AdapterFolder, site: Site, form: Form) -> None:
        """The rows of an embedding or head that the merge changes."""
        merged = _sound(site, form.merged()).cpu()
        changed = (merged != self._origin(site)).any(1).nonzero().flatten()
        if len(changed):
            made.set_rows(self._held(site), changed.tolist(), merged[changed])

    # -- refusals --------------------------------------------------------------------------------

    def _held(self, site: Site) -> str:
        """The name of a tensor that a module of the model has under it.

        Raises:
            Incompatible: transformers holds it in another form.
        """
        if site.name.rpartition(".")[0] not in self.kinds:
            raise Incompatible(
                f"--as-adapter: the merge changes {site.name}, which transformers holds in another form or under "
                "another name, and adapters change modules; merge without --as-adapter"
            )
        return site.name

    def _refuse_changed(self, site: Site, form: Form) -> None:
        """Refuse a merge that changes a tensor that no adapter does."""
        if form.models is not None:
            _refuse_multiple(site, form)
            return
        merged = _sound(site, form.merged()).cpu()
        if not merged.allclose(self._origin(site), rtol=_ONE, atol=0):
            raise Incompatible(
                f"--as-adapter: the merge changes {site.name}, which none of the adapters does: {self._group(site).method} "
                f"does not leave alone what is equal in all models. {_ADVICE}"
            )

    def _refuse_no_sum(self) -> None:
        """Refuse a merge that is no sum of adapters before all of it is made: by a small tensor of each group and role."""
        asked: dict[tuple[int, str], Site] = {}
        for site in self._blueprint.sites:
            kinds, group = self._kinds(site), self._group(site)
            if not kinds or not kinds <= {"factors", "dora"}:
                continue
            if "dora" in kinds:
                raise InputError(_no_sum(site, "DoRA rescales what the base has"))
            if methods.get(group.method).surveys:  # of all tensors, which take their time
                raise InputError(_no_sum(site, f"{group.method} is no sum of them"))
            least = asked.setdefault((id(group), site.place.role), site)
            if math.prod(site.shape) < math.prod(least.shape):
                asked[id(group), site.place.role] = site

        def take(site: Site, form: Form) -> None:
            self._exact(site, form)

        self._materializer.forms(self._recipe, take, [site.name for site in asked.values()])


def _refuse_multiple(site: Site, form: Form) -> None:
    """Refuse a sum whose coefficients do not sum to 1, which changes all of the base."""
    if not _is_one(form):
        raise Incompatible(
            f"--as-adapter: the merge changes all of {site.name}, not only what the adapters do: its coefficients sum to "
            f"{_total(form):.6g}, not 1, so that it has that many times the base's. {_ADVICE}"
        )


def _no_sum(site: Site, why: str) -> str:
    return (
        f"--as-adapter: {site.name} is not exactly the factors of the adapters side by side: {why}. Give --rank R, for "
        f"the nearest factors of that rank (R = {min(site.shape)} is exact here); what they lack is told"
    )


def _sound(site: Site, values: torch.Tensor) -> torch.Tensor:
    """``values`` that a tensor's merge is made of, all of them finite."""
    if not values.isfinite().all():
        raise CandidateFailed(f"{site.name} of the merged model holds NaN or infinite values")
    return values


def _total(form: Form) -> float:
    """What the coefficients sum to; of many rows or columns the one that is farthest from 1."""
    assert form.models is not None
    total = form.base
    for each in form.models:
        total = total + each
    if isinstance(total, float):
        return total
    return float(total.flatten()[(total - 1).abs().argmax()])


def _is_one(form: Form) -> bool:
    return abs(_total(form) - 1) <= _ONE


def _is_zero(coefficient: methods.Coefficient) -> bool:
    return isinstance(coefficient, float) and coefficient == 0


def _float(coefficient: methods.Coefficient) -> float | torch.Tensor:
    return coefficient if isinstance(coefficient, float) else coefficient.float()
